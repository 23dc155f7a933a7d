"""What a watcher yields, of what it read and what was published."""

from __future__ import annotations

from torrelque.core.models import TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.core.watch import Watch

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, *_ = TorrelqueTaskStatus


def state(status: TorrelqueTaskStatus, revision: int, dequeue_count: int = 0) -> TorrelqueTaskState:
    return TorrelqueTaskState(
        status, 300, None, dequeue_count, 0, 1.0, None, None, None, revision=revision
    )  # fmt: skip


def watching(first: TorrelqueTaskState) -> Watch:
    watch = Watch()
    assert watch.read(first) == [first]
    return watch


def seen(states: list[TorrelqueTaskState]) -> list[tuple[int, TorrelqueTaskStatus]]:
    return [(each.revision, each.status) for each in states]


def test_the_first_state_is_yielded_and_an_unchanged_one_is_not() -> None:
    watch = watching(state(PENDING, 1))
    assert watch.read(state(PENDING, 1)) == []
    assert not watch.ended


def test_transitions_that_the_reading_skipped_are_made_up() -> None:
    watch = watching(state(PENDING, 1))
    for message in (b'2 1', b'3 0', b'4 1'):
        watch.publish(message)
    assert seen(watch.read(state(WORKING, 4))) == [(2, WORKING), (3, PENDING), (4, WORKING)]


def test_old_news_is_not_told_again() -> None:
    watch = watching(state(WORKING, 4))
    watch.publish(b'3 0')
    watch.publish(b'4 1')
    assert watch.read(state(WORKING, 4)) == []


def test_a_change_that_09_made_without_a_revision_is_seen() -> None:
    watch = watching(state(PENDING, 1))
    assert seen(watch.read(state(WORKING, 1, dequeue_count=1))) == [(1, WORKING)]


def test_a_final_state_ends_it() -> None:
    watch = watching(state(PENDING, 1))
    watch.publish(b'2 1')
    watch.publish(b'3 3')
    assert watch.end_published
    assert seen(watch.read(state(COMPLETED, 3))) == [(2, WORKING), (3, COMPLETED)]
    assert watch.ended
    assert watch.final is COMPLETED


def test_a_task_that_is_gone_ends_it_with_the_published_status() -> None:
    watch = watching(state(PENDING, 1))
    watch.publish(b'2 1')
    watch.publish(b'3 3')
    assert seen(watch.read(None)) == [(2, WORKING), (3, COMPLETED)]
    assert watch.ended
    assert watch.final is COMPLETED
    assert not watch.cancelled


def test_a_task_that_is_gone_while_it_was_worked_on_was_released_by_09() -> None:
    watch = watching(state(WORKING, 2))
    assert seen(watch.read(None)) == [(3, COMPLETED)]
    assert watch.final is COMPLETED


def test_nothing_is_made_up_if_messages_were_missed() -> None:
    watch = watching(state(WORKING, 2))
    watch.miss()
    assert watch.read(None) == []
    assert watch.ended
    assert watch.final is None


def test_a_dead_letter_that_is_redriven_and_cancelled_has_no_final_state() -> None:
    watch = watching(state(WORKING, 2))
    for message in (b'3 4', b'4 0', b'5 cancelled'):
        watch.publish(message)
    assert seen(watch.read(None)) == [(4, PENDING)]
    assert (watch.final, watch.cancelled) == (None, True)


def test_a_task_that_is_gone_unheard_has_no_status() -> None:
    watch = watching(state(PENDING, 1))
    assert watch.read(None) == []
    assert watch.ended
    assert watch.final is None


def test_a_cancelled_task() -> None:
    watch = watching(state(PENDING, 1))
    watch.publish(b'2 cancelled')
    assert watch.end_published
    assert watch.read(None) == []
    assert watch.ended
    assert watch.cancelled
    assert watch.final is None


def test_what_is_no_message_of_the_library_is_ignored() -> None:
    watch = watching(state(PENDING, 1))
    for message in (b'', b'hello', b'2 99', b'\xff \xff'):
        watch.publish(message)
    assert not watch.end_published
    assert watch.read(state(PENDING, 1)) == []


def test_a_dead_letter_that_is_redriven_in_between_is_no_end() -> None:
    watch = watching(state(WORKING, 2))
    watch.publish(b'3 4')
    watch.publish(b'4 0')
    assert seen(watch.read(state(PENDING, 4))) == [(4, PENDING)]
    assert not watch.ended
    assert watch.final is None


def test_a_message_that_runs_ahead_is_waited_for_once_only() -> None:
    watch = watching(state(WORKING, 2))
    watch.publish(b'9 1')
    assert watch.read(state(WORKING, 2)) == []
    assert watch.behind
    assert seen(watch.read(state(PENDING, 1))) == [(1, PENDING)]
    assert not watch.behind
    watch.publish(b'2 1')
    assert seen(watch.read(state(WORKING, 2))) == [(2, WORKING)]


def test_a_message_that_the_state_contradicts_is_about_another_database() -> None:
    watch = watching(state(PENDING, 1))
    watch.publish(b'2 cancelled')
    for _ in range(2):
        assert watch.read(state(PENDING, 1)) == []
        assert not watch.ended
    assert not watch.behind
    watch.publish(b'2 1')
    assert not watch.end_published
    watch.publish(b'3 3')
    assert seen(watch.read(None)) == [(2, WORKING), (3, COMPLETED)]
    assert (watch.final, watch.cancelled) == (COMPLETED, False)


def test_a_foreign_end_that_does_not_follow_on_the_last_state_is_not_believed() -> None:
    watch = watching(state(WORKING, 4))
    watch.publish(b'3 4')
    watch.publish(b'7 cancelled')
    assert not watch.end_published
    assert watch.lacks(None)
    watch.publish(b'5 3')
    assert watch.end_published
    assert seen(watch.read(None)) == [(5, COMPLETED)]
    assert (watch.final, watch.cancelled) == (COMPLETED, False)


def test_an_end_is_believed_in_spite_of_a_gap_if_messages_were_missed() -> None:
    watch = watching(state(PENDING, 1))
    watch.miss()
    watch.publish(b'3 3')
    assert watch.end_published
    watch.read(None)
    assert watch.final is COMPLETED


def test_an_end_is_believed_in_spite_of_a_gap_if_there_is_no_better_one() -> None:
    watch = watching(state(PENDING, 1))
    watch.publish(b'3 3')
    assert not watch.end_published
    watch.read(None)
    assert watch.final is COMPLETED

"""Items as arguments, and answers."""

from __future__ import annotations

import pytest

from torrelque.core.commands import (
    CANCEL,
    ENQUEUE,
    EXTEND,
    GIVEBACK,
    REJECT,
    RELEASE,
    REQUEUE,
    Outcome,
    cancel_item,
    claim_item,
    enqueue_in,
    enqueue_item,
    extend_item,
    progress_item,
    reject_item,
    release_item,
    requeue_item,
    seconds,
)  # fmt: skip
from torrelque.core.models import Receipt, TorrelqueTaskStatus

RECEIPT = Receipt('id', '7:nonce:1', 3)
COMPLETED = TorrelqueTaskStatus.COMPLETED


def test_a_receipt_names_its_claim_and_a_bare_id_none() -> None:
    assert claim_item(RECEIPT) == (b'id', '7:nonce:1', 3)
    assert claim_item('id') == (b'id', '', '')


def test_times_are_text_and_none_is_empty() -> None:
    assert seconds(1.5) == '1.500000'
    assert seconds(0) == '0.000000'
    assert seconds(None) == ''


def test_enqueue_items() -> None:
    assert enqueue_item('é', b'data', 300, None, None, b'') == ('é'.encode(), b'data', '300', '', '', b'')
    assert enqueue_item('id', b'', 0.25, -1, 3, b'{}') == (b'id', b'', '0.25', '-1.000000', 3, b'{}')


def test_an_item_with_more_words_makes_all_as_long() -> None:
    plain, longer = (
        enqueue_item('a', b'1', 300, None, None, b''),
        (*enqueue_item('b', b'2', 300, 5, 3, b''), 'replace', '', ''),
    )
    assert ENQUEUE.arguments([plain]) == (2, *plain[2:], *plain[:2])
    assert ENQUEUE.arguments([longer]) == (9, *longer)
    for items in ([plain, longer], [longer, plain]):
        padded = [(*item, '', '', '')[:9] for item in items]
        assert ENQUEUE.arguments(items) == (9, *padded[0], *padded[1])


def test_a_group_alone_is_sent_with_the_id() -> None:
    plain = enqueue_item('a', b'1', 300, None, None, b'')
    grouped = (*enqueue_item('b', b'2', 300, None, None, b''), '', '', '', b'g', '')
    assert ENQUEUE.arguments([grouped, plain]) == (3, *plain[2:], b'b', b'2', b'g', b'a', b'1', b'')
    assert enqueue_in(7).arguments([grouped]) == (3, *plain[2:], b'b', b'2', b'g', 7)
    for other in (
        (*enqueue_item('c', b'3', 60, None, None, b''), '', '', '', b'g', ''),
        (*grouped[:6], 'replace', '', '', b'g', ''),
        (*grouped[:9], b'', 'low'),
    ):
        padded = [(*item, '', '', '', '', '')[:11] for item in (grouped, other, plain)]
        assert ENQUEUE.arguments([grouped, other, plain]) == (11, *padded[0], *padded[1], *padded[2])


def test_release_items_keep_results_in_whole_milliseconds_but_at_least_one() -> None:
    assert release_item(RECEIPT, COMPLETED, None, b'') == (b'id', '7:nonce:1', 3, 3, '', b'')
    assert release_item('id', COMPLETED, 0.5, None) == (b'id', '', '', 3, -500, b'')
    assert release_item('id', COMPLETED, 0.5, b'r') == (b'id', '', '', 3, 500, b'r')
    assert release_item('id', COMPLETED, 0.0001, b'r')[4] == 1


def test_the_other_items() -> None:
    assert requeue_item(RECEIPT, None, None)[3:] == ('', '', '', '')
    assert requeue_item(RECEIPT, 2, 60, count=False, group=True)[3:] == ('2.000000', '60', 1, 'group')
    assert progress_item(RECEIPT, 1, 3, 'né')[3:] == ('1 3 né'.encode(),)
    assert progress_item(RECEIPT, 0.5, None, None)[3:] == (b'0.5 - ',)
    assert reject_item(RECEIPT, 'né')[3:] == ('né'.encode(), '')
    assert reject_item('id', 'why', 7) == (b'id', '', '', b'why', 7)
    assert extend_item(RECEIPT, None)[3:] == ('',)
    assert extend_item('id', 60) == (b'id', '', '', '60.000000')
    assert cancel_item('id') == (b'id', '')
    assert cancel_item('id', 'ask') == (b'id', 'ask')


@pytest.mark.parametrize('verb', [ENQUEUE, RELEASE, REQUEUE, REJECT, GIVEBACK, CANCEL])
def test_laned_verbs_answer_a_letter_an_item(verb: object) -> None:
    assert isinstance(verb, type(ENQUEUE))
    assert verb.parse([b'neolux']) == [
        Outcome.NEW, Outcome.EXISTING, Outcome.OK, Outcome.LOST, Outcome.UNKNOWN, Outcome.BROKEN,
    ]  # fmt: skip


def test_extend_answers_deadlines() -> None:
    assert EXTEND.parse([b'1000.500000', b'l', b'u', b'x']) == [1000.5, Outcome.LOST, Outcome.UNKNOWN, Outcome.BROKEN]


def test_an_unknown_letter_is_an_error() -> None:
    with pytest.raises(KeyError, match='122'):
        ENQUEUE.parse([b'z'])

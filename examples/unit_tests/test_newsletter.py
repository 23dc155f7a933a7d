"""The application's tests: no server and no waiting, on asyncio and on Trio.

The queue is in memory, and its time stands still until the test moves it::

    python -m pytest examples/unit_tests
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from examples.unit_tests.newsletter import REMINDER_DELAY, Newsletter
from torrelque import Torrelque
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio  # of the plugin that comes with anyio: it runs each test on both event loops


class Mailbox:
    """Notes when a mail was tried, and what was sent."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.tries: list[float] = []
        self.sent: list[str] = []
        self.failures = 0
        """How many of the next tries fail."""

    def mail(self, address: str, text: str) -> None:
        self.tries.append(self.clock.now())
        if self.failures:
            self.failures -= 1
            raise ConnectionError('the mail server is down')
        self.sent.append(f'{address}: {text}')


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def mailbox(clock: VirtualClock) -> Mailbox:
    return Mailbox(clock)


@pytest.fixture
async def queue(clock: VirtualClock) -> AsyncIterator[Torrelque]:
    async with Torrelque(MemoryTransport(clock=clock), queue='newsletter') as queue:
        yield queue


@pytest.fixture
async def newsletter(queue: Torrelque, mailbox: Mailbox, clock: VirtualClock) -> AsyncIterator[Newsletter]:
    """The application with its worker running."""
    application = Newsletter(queue, mailbox.mail)
    async with anyio.create_task_group() as group:
        await group.start(application.make_worker(clock=clock).run)
        yield application
        group.cancel_scope.cancel()


async def test_who_does_not_confirm_is_reminded_after_a_quarter_of_an_hour(
    newsletter: Newsletter, mailbox: Mailbox, clock: VirtualClock
) -> None:
    await newsletter.subscribe('joe@doe.com')
    await clock.advance(REMINDER_DELAY - 1)
    assert mailbox.sent == ['joe@doe.com: Please confirm']
    await clock.advance(1)
    assert mailbox.sent == ['joe@doe.com: Please confirm', 'joe@doe.com: Did you forget?']


async def test_who_confirms_is_not(newsletter: Newsletter, mailbox: Mailbox, clock: VirtualClock) -> None:
    await newsletter.subscribe('joe@doe.com')
    await clock.advance(REMINDER_DELAY / 2)
    newsletter.confirm('joe@doe.com')
    await clock.advance(REMINDER_DELAY)
    assert mailbox.sent == ['joe@doe.com: Please confirm']


async def test_a_mail_that_fails_is_tried_again(newsletter: Newsletter, mailbox: Mailbox, clock: VirtualClock) -> None:
    mailbox.failures = 2
    await newsletter.subscribe('joe@doe.com')
    await clock.advance(600)
    assert mailbox.tries == pytest.approx([0, 60, 60 + 120])
    assert mailbox.sent == ['joe@doe.com: Please confirm']


async def test_a_mail_that_fails_again_and_again_is_a_dead_letter(
    newsletter: Newsletter, queue: Torrelque, mailbox: Mailbox, clock: VirtualClock
) -> None:
    mailbox.failures = 4
    await newsletter.subscribe('joe@doe.com')
    await clock.advance(600)
    assert len(mailbox.tries) == 4
    [(task_id, state)] = [letter async for letter in queue.rejected()]
    assert state.reason == 'ConnectionError: the mail server is down'

    await queue.redrive(task_id)  # what an operator does when the mail server is back
    await clock.advance(0)
    assert mailbox.sent == ['joe@doe.com: Please confirm']


async def test_a_bad_address_is_not_tried_again(newsletter: Newsletter, queue: Torrelque, clock: VirtualClock) -> None:
    await newsletter.subscribe('joe')
    await clock.advance(600)
    assert [state.reason async for _, state in queue.rejected()] == ['joe is no address']


async def test_the_mail_of_a_worker_that_died_is_sent_by_another(
    queue: Torrelque, mailbox: Mailbox, clock: VirtualClock
) -> None:
    application = Newsletter(queue, mailbox.mail)
    await application.subscribe('joe@doe.com')
    await queue.dequeue()  # by a worker that will never do anything with it
    async with anyio.create_task_group() as group:
        await group.start(application.make_worker(clock=clock).run)
        await clock.advance(queue.task_timeout)
        assert mailbox.sent == ['joe@doe.com: Please confirm']
        group.cancel_scope.cancel()

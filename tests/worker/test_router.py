"""Several kinds of tasks on one queue, and what their functions get."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, assert_type

import anyio
import pytest

from tests.worker.support import Bench
from torrelque import (
    EnqueueItem,
    Router,
    Task,
    Torrelque,
    TorrelqueError,
    TorrelqueExistsError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    Worker,
    events,
    retry,
    serialisers,
)
from torrelque.worker.router import Kind

pytestmark = pytest.mark.anyio


@dataclass
class Address:
    name: str
    host: str


@dataclass
class Email:
    to: Address
    subject: str = 'hello'


JOE = Email(Address('joe', 'example.org'))


async def test_each_kind_has_its_function(bench: Bench) -> None:
    router, got = Router(), list[object]()

    @router.task('email.send')
    async def send(mail: Email) -> Address:
        got.append(mail)
        return mail.to

    @router.task('count')
    def count(number: int, task: Task) -> int:
        got.append((number, task.kind, task.data))
        return number + 1

    @router.task('whole')
    async def whole(task: Task[Email]) -> None:
        got.append((task.data, task.attempt))

    @router.task('bare')
    async def bare() -> None:
        got.append('bare')

    assert_type(send, Kind[Email, Address])
    assert_type(count, Kind[int, int])
    assert_type(whole, Kind[Email, None])
    sent = await send.enqueue(bench.queue, JOE)
    ids = await bench.queue.enqueue_many([count.item(5), whole.item(JOE, headers={'a': 'b'}), bare.item(None)])
    assert [type(each) for each in ids] == [str] * 3
    assert (await bench.queue.get_task(sent)).data == {
        'to': {'name': 'joe', 'host': 'example.org'},
        'subject': 'hello',
    }
    async with bench.working(router):
        await bench.until(events.Finished, 4)
        address = await send.result(bench.queue, sent)
        assert_type(address, Address)
        assert address == JOE.to
        assert await count.result(bench.queue, str(ids[0])) == 6
    assert got == [JOE, (5, 'count', 5), (JOE, 1), 'bare']
    assert await send(JOE) == JOE.to, 'it can be called as the function that it is'


async def test_groups_and_priorities(bench: Bench) -> None:
    router = Router()

    @router.task('count')
    async def count(number: int) -> None: ...

    first = await count.enqueue(bench.queue, 1, group='g')
    options: dict[str, Any] = {'task_id': 'x', 'if_exists': 'raise', 'expires_in': 60, 'on_expiry': 'reject'}
    items = [count.item(2, group='h'), count.item(3, priority='low', **options)]
    states = [await bench.queue.get_task_state(str(each)) for each in [first, *await bench.queue.enqueue_many(items)]]
    assert [(state.group, state.priority) for state in states] == [('g', 'normal'), ('h', 'normal'), (None, 'low')]
    assert [state.on_expiry for state in states] == [None, None, 'reject']
    (again,) = await bench.queue.enqueue_many([count.item(3, **options)])
    assert isinstance(again, TorrelqueExistsError)


async def test_schedules(bench: Bench) -> None:
    router, got = Router(), list[object]()

    @router.task('send')
    async def send(mail: Email) -> None:
        got.append(mail)

    options: dict[str, Any] = {'headers': {'a': 'b'}, 'owner': 'app', 'time_limit': 5, 'group': 'g', 'missed': 'all'}
    await send.schedule(bench.queue, 'x', JOE, every=3600, **options)
    (found,) = [each async for each in bench.queue.schedules()]
    assert (found.id, found.every, found.owner, found.group, found.missed) == ('x', 3600, 'app', 'g', 'all')
    assert found.headers == {'a': 'b', 'torrelque.kind': 'send', 'torrelque.time_limit': '5'}
    await bench.queue.fire('x')
    async with bench.working(router):
        await bench.until(events.Finished, 1)
    assert got == [JOE]
    with pytest.raises(TorrelqueValueError, match='give either cron or every'):
        await send.schedule(bench.queue, 'x', JOE)


@pytest.mark.parametrize(
    ('mine', 'of_queue'),
    [
        (Kind.schedule, Torrelque.schedule),
        (Kind.enqueue, Torrelque.enqueue),
        (Kind.item, EnqueueItem.__init__),
    ],
)
def test_options_are_those_of_the_queue(mine: Callable[..., Any], of_queue: Callable[..., Any]) -> None:
    given, wanted = ({
        name: each.default for name, each in inspect.signature(function).parameters.items()
        if name not in ('queue', 'payload', 'task')
    } for function in (mine, of_queue))  # fmt: skip
    assert given == wanted


async def test_tasks_that_no_function_handles_are_rejected(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    router = Router()

    @router.task('known')
    async def known(data: Email) -> None: ...

    unknown = await bench.queue.enqueue(1, headers={'torrelque.kind': 'later'})
    without = await bench.queue.enqueue(2)
    damaged = await bench.queue.enqueue({'to': 5}, headers={'torrelque.kind': 'known'})
    async with bench.working(router):
        await bench.until(events.Rejected, 3)
        reasons = [(await bench.queue.get_task_state(each)).reason for each in (unknown, without, damaged)]
    assert reasons[:2] == ["there is no handler of its kind 'later'", 'it has no kind']
    assert reasons[2] is not None
    assert reasons[2].startswith(
        "its payload is not one of 'known': TorrelqueTypeError: expected the fields of Address"
    )
    assert f"Task:{unknown} cannot be handled, rejecting it: there is no handler of its kind 'later'" in caplog.text
    with pytest.raises(TorrelqueError, match='rejected: there is no handler'):
        await known.result(bench.queue, unknown)


@pytest.mark.parametrize('name', ['msgspec', 'pydantic'])
async def test_annotations_are_for_the_package_that_is_given(bench: Bench, name: str) -> None:
    pytest.importorskip(name)
    router = Router(getattr(serialisers, name))

    @router.task('sum')
    async def summed(numbers: dict[str, list[Email]]) -> list[Address]:
        return [mail.to for mails in numbers.values() for mail in mails]

    task_id = await summed.enqueue(bench.queue, {'a': [JOE, JOE]})
    bad = await bench.queue.enqueue({'a': [5]}, headers={'torrelque.kind': 'sum'})
    async with bench.working(router):
        await bench.until(events.Finished)
        await bench.until(events.Rejected)
        assert await summed.result(bench.queue, task_id) == [JOE.to, JOE.to]
        assert 'its payload is not one of' in ((await bench.queue.get_task_state(bad)).reason or '')


async def test_models_need_no_configuration(bench: Bench) -> None:
    pydantic = pytest.importorskip('pydantic')
    msgspec = pytest.importorskip('msgspec')
    Model = pydantic.create_model('Model', number=(int, ...))  # noqa: N806 - a class
    Struct = msgspec.defstruct('Struct', [('number', int)])  # noqa: N806 - a class
    router, got = Router(), list[object]()

    @router.task('model')
    async def model(data: Model) -> Struct:  # type: ignore[valid-type]
        got.append(data)
        return Struct(data.number)  # type: ignore[attr-defined, no-any-return]

    @router.task('struct')
    async def struct(data: Struct) -> Model:  # type: ignore[valid-type]
        got.append(data)
        return Model(number=data.number)  # type: ignore[attr-defined, no-any-return]

    ids = [await model.enqueue(bench.queue, Model(number=1)), await struct.enqueue(bench.queue, Struct(2))]
    async with bench.working(router):
        await bench.until(events.Finished, 2)
        assert await model.result(bench.queue, ids[0]) == Struct(1)
        assert await struct.result(bench.queue, ids[1]) == Model(number=2)
    assert got == [Model(number=1), Struct(2)]


async def test_a_result_that_cannot_be_converted_does_not_run_the_handler_again(bench: Bench) -> None:
    pytest.importorskip('pydantic')
    router = Router(serialisers.pydantic)

    @router.task('odd')
    async def odd(number: int) -> dict[str, object]:
        return {'of': object()}

    @router.task('plain')
    def plain(number: int) -> dict[str, object]:
        return {'of': object()}

    await odd.enqueue(bench.queue, 1)
    await plain.enqueue(bench.queue, 1)
    async with bench.working(router):
        await bench.until(events.ResultDropped, 2)
        await bench.until(events.Finished, 2)
        await bench.clock.advance(3600)
        assert await bench.peek() == (0, 0, 0, 0)
    assert len(bench.told(events.Started)) == 2
    assert 'object' in str(bench.told(events.ResultDropped)[0].error)


async def test_a_kind_has_its_own_policy(bench: Bench) -> None:
    router = Router()

    @router.task('once', retry=retry.never())
    async def once(number: int) -> None:
        raise ValueError(number)

    @router.task('again')
    async def again(number: int) -> None:
        raise ValueError(number)

    await once.enqueue(bench.queue, 1)
    await again.enqueue(bench.queue, 1)
    async with bench.working(router, retry=retry.constant(5)):
        await bench.until(events.Rejected)
        await bench.until(events.Retried)
        assert await bench.peek() == (0, 0, 1, 1)


def test_what_is_no_kind_of_task() -> None:
    router, other = Router(), Router()

    @router.task('a')
    async def of_a(data: int) -> None: ...

    other.include(router)
    assert set(other.kinds) == {'a'}
    with pytest.raises(TorrelqueValueError, match="'a' already has a handler"):
        other.include(router)
    with pytest.raises(TorrelqueValueError, match="'a' already has a handler"):
        router.task('a')
    with pytest.raises(TorrelqueValueError, match='name'):
        router.task('')
    with pytest.raises(TorrelqueValueError, match='time_limit'):
        router.task('b', time_limit=0)
    with pytest.raises(TorrelqueTypeError, match='retry'):
        router.task('b', retry=5)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match='handler must be a function'):
        router.task('b')(5)  # type: ignore[call-overload]
    with pytest.raises(TorrelqueTypeError, match="'more' of the handler of 'b'"):

        @router.task('b')
        async def of_b(data: int, more: int) -> None: ...

    with pytest.raises(TorrelqueTypeError, match="annotations of the handler of 'b' are unknown"):

        @router.task('b')
        async def of_unknown(data: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert set(router.kinds) == {'a'}


# Dependencies --------------------------------------------------------------------------------------------------------


@dataclass
class Services:
    http: str
    database: str


@pytest.mark.parametrize('context', [Services('h', 'd'), {'http': 'h', 'database': 'd'}], ids=['object', 'mapping'])
async def test_dependencies(bench: Bench, context: Any) -> None:  # noqa: ANN401 - the user's
    router, got = Router(), list[object]()

    @router.task('both')
    async def both(data: int, *, http: str, database: str = '', other: str = 'default') -> None:
        got.append((data, http, database, other))

    @router.task('all')
    def everything(data: int, *, context: object) -> None:
        got.append(context)

    await both.enqueue(bench.queue, 1)
    await everything.enqueue(bench.queue, 2)
    async with bench.working(router, context=context):
        await bench.until(events.Finished, 2)
    assert got == [(1, 'h', 'd', 'default'), context]


async def test_a_plain_handler_has_dependencies_too(bench: Bench) -> None:
    async def handler(task: Task, *, http: str) -> str:
        return http

    task_id = await bench.queue.enqueue(1)
    async with bench.working(handler, context={'http': 'h'}):
        await bench.until(events.Finished)
        assert (await bench.queue.get_task_state(task_id)).result == 'h'


async def test_a_dependency_that_is_missing_is_told_before_anything_is_claimed(bench: Bench) -> None:
    router = Router()

    @router.task('a')
    async def of_a(data: int, *, http: str) -> None: ...

    await of_a.enqueue(bench.queue, 1)
    with pytest.raises(TorrelqueUsageError, match="the handler of 'a' needs 'http'"):
        await bench.worker(router).run()
    assert await bench.peek() == (1, 0, 0, 0)


async def test_a_lifespan_surrounds_the_run(bench: Bench) -> None:
    log: list[object] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, str]]:
        log.append(await bench.peek())
        yield {'http': 'open'}
        log.append(await bench.peek())

    async def handler(task: Task, *, http: str) -> None:
        log.append(http)

    await bench.queue.enqueue(1)
    worker = bench.worker(handler, lifespan=lifespan)
    async with anyio.create_task_group() as group:
        await group.start(worker.run)
        await bench.until(events.Finished)
        worker.stop()
    assert log == [(1, 0, 0, 0), 'open', (0, 0, 0, 0)]


async def test_a_worker_that_is_stopped_during_the_start_of_its_lifespan(bench: Bench) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        worker.stop()
        yield

    async def handler(task: Task) -> None: ...

    worker = bench.worker(handler, lifespan=lifespan)
    await bench.queue.enqueue(1)
    await worker.run()
    assert await bench.peek() == (1, 0, 0, 0)


async def test_an_error_of_a_lifespan_ends_the_run(bench: Bench) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise OSError('no database')
        yield

    async def handler(task: Task) -> None: ...

    with pytest.raises(OSError, match='no database'):
        await bench.worker(handler, lifespan=lifespan).run()


async def test_bad_arguments(bench: Bench) -> None:
    async def handler(task: Task) -> None: ...

    @contextmanager
    def lifespan() -> Iterator[None]:
        yield

    with pytest.raises(TorrelqueTypeError, match='exclude each other'):
        Worker(bench.queue, handler, concurrency=1, context=1, lifespan=lifespan)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match='lifespan must be a function'):
        Worker(bench.queue, handler, concurrency=1, lifespan=5)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match='no kinds of tasks'):
        Worker(bench.queue, Router(), concurrency=1)

"""What type checkers know of payloads: ``make types`` has mypy and pyright check the assertions, pytest runs them."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import json
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, assert_type

import pytest

from torrelque import (
    EnqueueItem,
    Source,
    Task,
    TaskId,
    Torrelque,
    TorrelqueTask,
    TorrelqueTaskSerialiser,
    TorrelqueTypeError,
    Worker,
    serialisers,
)
from torrelque.serialisers import Serialiser
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


@dataclass
class Email:
    to: str


class EmailSerialiser:
    def dumps(self, value: Email) -> bytes:
        return json.dumps(asdict(value)).encode()

    def loads(self, data: bytes) -> Email:
        return Email(**json.loads(data))


async def any_handler(task: Task) -> None: ...


async def email_handler(task: Task[Email]) -> str:
    return task.data.to


def number_handler(task: Task[int]) -> int:
    return task.data + 1


def test_the_type_comes_from_the_serialiser_or_is_given() -> None:
    client = MemoryTransport()
    assert_type(Torrelque(client), Torrelque[Any])
    assert_type(Torrelque(client, serialiser=pickle), Torrelque[Any])
    assert_type(Torrelque(client, serialiser=serialisers.pickle), Torrelque[Any])
    assert_type(Torrelque(client, serialiser=TorrelqueTaskSerialiser(json.dumps, json.loads)), Torrelque[Any])
    assert_type(Torrelque(client, serialiser=EmailSerialiser()), Torrelque[Email])
    assert_type(Torrelque[Email](client), Torrelque[Email])

    def of_packages() -> None:
        assert_type(serialisers.msgspec(Email), Serialiser[Email])
        assert_type(Torrelque(client, serialiser=serialisers.pydantic(Email)), Torrelque[Email])

    assert callable(of_packages)


async def test_tasks_have_the_type_of_the_queue() -> None:
    queue = Torrelque(MemoryTransport(), serialiser=EmailSerialiser(), result_serialiser=serialisers.JSON)
    async with queue:
        await queue.enqueue(Email('a'))
        ids = await queue.enqueue_many([Email('b'), EnqueueItem(Email('c'), delay=0.0)])
        assert isinstance(ids[0], str)
        assert_type(await queue.get_task(ids[0]), TorrelqueTask[Email])
        task = await queue.dequeue()
        assert_type(task, Task[Email])
        assert_type(task.data, Email)
        task_id, data = task
        assert_type(task_id, TaskId)
        assert_type(data, Email)
        assert data == Email('a')
        many = await queue.dequeue_many(1)
        assert_type(many, list[Task[Email]])
        assert [each.data for each in many] == [Email('b')]
        assert_type(await queue.dequeue(max_tasks=2), list[Task[Email]])
        assert_type(await queue.dequeue_nowait(), list[Task[Email]])
        await queue.release(task, result=['of', 'another', 'type'])
        assert (await queue.get_task_state(task.id)).result == ['of', 'another', 'type']
        with pytest.raises(TypeError):
            await queue.enqueue('text')  # type: ignore[arg-type]


def test_workers_take_handlers_of_the_type_of_the_queue() -> None:
    emails = Torrelque[Email](MemoryTransport())
    assert_type(Worker(emails, email_handler, concurrency=1), Worker[Email])
    Worker(emails, any_handler, concurrency=1)
    Worker(Torrelque(MemoryTransport()), number_handler, concurrency=1)
    Worker(emails, number_handler, concurrency=1)  # type: ignore[arg-type]


def test_queues_of_several_types_need_a_handler_of_any_or_one_each() -> None:
    transport = MemoryTransport()
    emails, numbers = Torrelque[Email](transport, queue='emails'), Torrelque[int](transport, queue='numbers')
    Worker({emails: 6, numbers: 1}, any_handler, concurrency=1)
    Worker([emails, numbers], any_handler, concurrency=1, strict=True)
    Worker({emails: Source(email_handler), numbers: Source(number_handler, weight=2)}, concurrency=1)


def test_a_task_of_one_type_is_one_of_a_wider_type() -> None:
    def take(handler: Callable[[Task[object]], Awaitable[None]]) -> None: ...

    async def handler(task: Task[object]) -> None: ...

    take(handler)
    Worker(Torrelque[Email](MemoryTransport()), handler, concurrency=1)


def test_clients_are_known() -> None:
    for wrong in ('redis://localhost', None):
        with pytest.raises(Exception, match='client'):
            Torrelque(wrong)  # type: ignore[arg-type]
    with pytest.raises(TorrelqueTypeError, match='result_serialiser must have dumps and loads'):
        Torrelque(MemoryTransport(), result_serialiser=5)  # type: ignore[arg-type]

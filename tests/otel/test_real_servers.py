"""The same over a real server: between clients, beside 0.9, and in the application's own transaction."""

from __future__ import annotations

import anyio
import coredis
import pytest
import redis.asyncio

from tests.otel.support import Telescope, attributes, failed, identity, links, operation, parent
from tests.queue.legacy import Legacy
from tests.servers import Server
from torrelque import Task, Torrelque, TorrelqueLeaseLostError, connect
from torrelque.otel import InstrumentedTorrelque, InstrumentedWorker

pytestmark = pytest.mark.anyio

ENOUGH = 20  # seconds, for a machine under load


async def test_from_a_producer_to_a_worker(telescope: Telescope, server: Server) -> None:
    """Two clients, as if in two processes."""

    async def handler(task: Task) -> str:
        return f'done {task.data}'

    async with connect(server.url) as ours, telescope.queue(ours) as producer:
        with telescope.tracer.start_as_current_span('request') as request:
            task_id = await producer.enqueue('it')
        async with (
            connect(server.url) as theirs,
            telescope.queue(theirs) as consumer,
            anyio.create_task_group() as tasks,
        ):
            worker = InstrumentedWorker(consumer, handler, concurrency=3)
            tasks.start_soon(worker.run)
            with anyio.fail_after(ENOUGH):
                assert (await producer.wait(task_id)).result == 'done it'
            worker.stop()
    assert telescope.names() == ['enqueue q', 'request', 'process q', 'release q']
    sent, process, release = (telescope.one(f'{verb} q') for verb in ('enqueue', 'process', 'release'))
    assert parent(sent) == identity(request.get_span_context())
    assert (parent(process), parent(release)) == (identity(sent), identity(sent))


async def test_consumers_of_0_9_do_not_notice(telescope: Telescope, server: Server) -> None:
    """The payload is what a plain queue would have written, byte by byte."""
    async with connect(server.url) as client, telescope.queue(client) as queue, Torrelque(client, queue='q') as plain:
        observed = await queue.enqueue({'a': 1})
        unobserved = await plain.enqueue({'a': 1})
        with server.client() as raw:
            legacy = Legacy(raw, 'q')
            payloads = [raw.command('HGET', 'q:tasks', task_id) for task_id in (observed, unobserved)]
            assert payloads == [b'{"a": 1}'] * 2
            assert legacy.dequeue() == (observed, {'a': 1})
            assert legacy.dequeue() == (unobserved, {'a': 1})
            legacy.requeue(observed)
            legacy.release(unobserved)
            again = await queue.dequeue(ENOUGH)
            await queue.release(again)
            legacy.enqueue('of 0.9')
            task = await queue.dequeue(ENOUGH)
    sent, (received, other) = telescope.one('enqueue q'), telescope.all('dequeue q')
    assert links(received) == [identity(sent)], 'the context outlives a delivery to 0.9'
    assert (links(other), task.headers) == ([], {})


@pytest.mark.parametrize('anyio_backend', [('asyncio', {})], ids=['asyncio'], scope='module')
async def test_in_a_transaction(telescope: Telescope, server: Server) -> None:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        queue = telescope.queue(client)
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.set('order', 'paid')
            task_id = await queue.enqueue('ship it', pipeline=pipeline)
            assert operation(telescope.one('enqueue q')) == ('enqueue', 'create', 'PRODUCER')
            assert attributes(telescope.one('enqueue q')) == {'messaging.message.id': task_id}
            await pipeline.execute()
        assert telescope.counted('messaging.client.sent.messages') == {}
        assert telescope.timed('messaging.client.operation.duration') == {}
        task = await queue.dequeue(ENOUGH)
        assert links(telescope.one('dequeue q')) == [identity(telescope.one('enqueue q'))]
        async with client.pipeline(transaction=True) as pipeline:
            await queue.requeue(task, pipeline=pipeline)
            await pipeline.execute()
        task = await queue.dequeue(ENOUGH)
        async with client.pipeline(transaction=True) as pipeline:
            await queue.release(task, result='shipped', pipeline=pipeline)
            await pipeline.execute()
        assert (await queue.get_task_state(task.id)).result == 'shipped'
        assert telescope.names() == ['enqueue q', 'dequeue q', 'dequeue q']
        await queue.aclose()


@pytest.mark.parametrize('anyio_backend', [('asyncio', {})], ids=['asyncio'], scope='module')
async def test_errors_have_one_name_over_every_client(telescope: Telescope, server: Server) -> None:
    async def fail(queue: InstrumentedTorrelque) -> None:
        async with queue:
            await queue.enqueue(1)
            task = await queue.dequeue(ENOUGH)
            await queue.release(str(task.id))
            with pytest.raises(TorrelqueLeaseLostError):
                await queue.release(task)
            with server.client() as raw:
                raw.command('FLUSHDB')
                raw.command('SET', 'q:pending', 'no list')
                with pytest.raises(Exception, match='wrong kind of value'):
                    await queue.enqueue(2)
                raw.command('FLUSHDB')

    async with redis.asyncio.Redis.from_url(server.url) as one, coredis.Redis.from_url(server.url) as other:
        await fail(telescope.queue(one))
        await fail(telescope.queue(other))
    async with connect(server.url) as client:
        await fail(telescope.queue(client))
    kinds = [kind[0] for span in telescope.spans.get_finished_spans() if (kind := failed(span))]
    assert kinds == ['torrelque.errors.TorrelqueLeaseLostError', 'torrelque.errors.TorrelqueReplyError'] * 3

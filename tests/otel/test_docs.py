"""What docs/monitoring.md shows and lists."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from prometheus_client.core import Metric

from tests.otel.support import FailingTransport, Telescope, parent
from tests.otel.support import identity as identity_of
from torrelque import Limits, TorrelqueQueueStats, events
from torrelque.cli.exporter.metrics import Found, families
from torrelque.otel import telemetry
from torrelque.otel.queue import InstrumentedTorrelque
from torrelque.otel.worker import InstrumentedWorker

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / 'docs' / 'monitoring.md').read_text(encoding='utf-8')


def section(heading: str) -> str:
    return PAGE.split(f'# {heading}\n')[1].split('\n#')[0]


def rows(heading: str) -> list[str]:
    """The names in the first column of a section's last table."""
    return re.findall(r'^\| `([\w.]+)` \|', section(heading), re.MULTILINE)


@pytest.fixture(scope='module')
def shown() -> dict[str, Any]:
    """The names that the page's blocks define, its programs not started; what they set is set back."""
    names: dict[str, Any] = {}
    for block in re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL):
        if 'setLevel' not in block:
            exec(compile(block.replace('anyio.run(main)', ''), 'monitoring.md', 'exec'), names)  # noqa: S102 - our own page
    return names


async def test_the_trace_that_is_drawn(
    shown: dict[str, Any], telescope: Telescope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program as it is, but for its server, its providers, and an end."""

    class Queue(InstrumentedTorrelque):
        tracer_provider = telescope.tracers

    def make_worker(
        queue: InstrumentedTorrelque,
        handler: Any,  # noqa: ANN401 - as shown
        *,
        concurrency: int,
        handle_signals: bool,
    ) -> InstrumentedWorker:
        def hear(event: events.WorkerEvent) -> None:
            if isinstance(event, events.Finished):
                worker.stop()

        assert handle_signals
        worker = InstrumentedWorker(queue, handler, concurrency=concurrency, on_event=hear)
        return worker

    monkeypatch.setitem(shown, 'Torrelque', Queue)
    monkeypatch.setitem(shown, 'Worker', make_worker)
    monkeypatch.setitem(shown, 'tracer', telescope.tracer)
    monkeypatch.setattr('torrelque.connect', lambda _: nullcontext(FailingTransport()))
    with anyio.fail_after(10):
        await shown['main']()
    order, enqueue, process, smtp, release = (
        telescope.one(name) for name in ('order', 'enqueue mail', 'process mail', 'smtp', 'release mail')
    )
    assert [parent(span) for span in (order, enqueue, process, release, smtp)] == [
        None, *(identity_of(span) for span in (order, enqueue, enqueue, process)),
    ]  # fmt: skip
    assert [span.kind.name for span in (enqueue, process, release)] == ['PRODUCER', 'CONSUMER', 'CLIENT']
    drawn = section('OpenTelemetry').split('```text')[1].split('```')[0]
    assert re.findall(r'order|\w+ mail|smtp', drawn) == [
        'order',
        'enqueue mail',
        'process mail',
        'smtp',
        'release mail',
    ]
    assert re.findall(r'[A-Z]{5,}', drawn) == ['PRODUCER', 'CONSUMER', 'CLIENT']


async def test_the_loop_and_the_providers(shown: dict[str, Any], telescope: Telescope) -> None:
    async with InstrumentedTorrelque(FailingTransport()) as queue:
        shown['observe'](queue, telescope.tracers, telescope.meters)
        await queue.enqueue({'to': 'you'})
        await queue.enqueue({'to_nobody': 'so it fails'})
        async with anyio.create_task_group() as group:
            group.start_soon(shown['consume'], queue)
            with anyio.fail_after(10):
                while 'requeue trq' not in telescope.names():
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    names = telescope.names()
    assert names == ['enqueue trq'] * 2 + ['dequeue trq', 'process trq', 'release trq'] + [
        'dequeue trq', 'process trq', 'requeue trq',
    ]  # fmt: skip
    assert telescope.counted('messaging.client.sent.messages') == {('enqueue', None): 2}


def test_what_is_listed_is_told() -> None:
    source = Path(telemetry.__file__).read_text(encoding='utf-8')
    assert rows('Metrics') == re.findall(r"'((?:messaging\.(?:client|process)|torrelque\.worker)\.[\w.]+)',", source)
    written = {
        telemetry.MESSAGE_ID, telemetry.MESSAGE_COUNT, telemetry.ATTEMPT, telemetry.DELAY, telemetry.REASON,
        telemetry.GROUP, telemetry.PRIORITY, telemetry.ERROR_TYPE,
    }  # fmt: skip
    assert {name for name in rows('Spans') if '.' in name} == written
    assert telemetry.SCHEMA.removeprefix('https://opentelemetry.io/schemas/').rpartition('.')[0] in section('Spans')


def exported() -> list[Metric]:
    return list(families({'q': Found(TorrelqueQueueStats(0, 0, 0, 0, limits=Limits(1, (1, 1.0), 1)), [])}, 0.0))


def test_the_exporters_metrics_are_listed_and_all_that_queries_use() -> None:
    names = {sample.name for family in exported() for sample in family.samples}
    assert set(rows('Prometheus')) == names
    rules = ''.join(re.findall(r'^```yaml\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
    used = set(re.findall(r'\b(torrelque_\w+)', rules))
    assert used <= names
    assert len(used) > 5

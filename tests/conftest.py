"""Event loops, servers, and ``--no-skips``."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis  # noqa: F401 - its plugin imports it at the end, and finds Trio's random numbers only among objects that are not frozen
import pytest

from tests import servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--no-skips', action='store_true', help='a test that is skipped, or expected to fail, fails')
    parser.addoption('--full', action='store_true', help='every transport on every event loop over every server')


def pytest_configure() -> None:
    """Heed signals that were ignored, as nohup and a shell's ``&`` ask for: programs that tests start inherit that."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave half a million objects of the tests out of every garbage collection, while they are made and afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {'server', 'fresh_server'} & set(getattr(item, 'fixturenames', ())):
            item.add_marker('server')


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == 'skipped':
        report.outcome = 'failed'
        report.longrepr = f'skipped, which --no-skips forbids: {report.longrepr}'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.getoption('--no-skips'):
        _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if collector.config.getoption('--no-skips'):
        _forbid_skip(report)
    return report


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(('asyncio', {}), id='asyncio'),
        pytest.param(('asyncio', {'use_uvloop': True}), id='asyncio+uvloop'),
        pytest.param(('trio', {}), id='trio'),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    """Every asynchronous test runs on each event loop."""
    return request.param


@pytest.fixture(params=list(servers.SERVERS))
def server(request: pytest.FixtureRequest) -> servers.Server:
    """Each kind of server, empty. It is shared: tests that reconfigure it take ``fresh_server``."""
    try:
        shared = servers.shared(request.param)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    shared.start()  # a test may have killed it
    shared.flush()
    return shared


@pytest.fixture
def fresh_server() -> Iterator[Callable[..., servers.Server]]:
    """Starts servers that are the test's own: ``fresh_server('--requirepass', 'secret', name='redis-7.0')``."""
    with ExitStack() as stack:

        def start(*arguments: str, name: str = 'valkey-9.1') -> servers.Server:
            try:
                started = servers.start(name, *arguments)
            except servers.MissingServerError as error:
                pytest.skip(str(error))
            stack.callback(started.close)
            return started

        yield start

"""The web application without a browser: what it serves over HTTP."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.examples.support import PATIENCE
from tests.examples.webapp import Event, WebApp, serving

BACKOFF = 0.3
OPTIONS = ['--seconds', '0.05', '--backoff', str(BACKOFF)]


@pytest.fixture(scope='module')
def url() -> str:
    return servers.shared('valkey-9.1').url


@pytest.fixture(scope='module')
def webapp(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with serving(tmp_path_factory.mktemp('webapp') / 'log', '--url', url, *OPTIONS) as running:
        yield running


def check_course(events: list[Event], failures: int) -> None:
    """That the events tell of one task that fails so often, and then succeeds.

    A watcher that lags behind gets each status, but some with an earlier number of the attempt.
    """
    last = events[-1]
    assert (last['status'], last['attempt']) == ('COMPLETED', failures + 1)
    attempts = [event['attempt'] for event in events]
    assert attempts == sorted(attempts)
    for event in events:
        assert (event is last) == (event['status'] == 'COMPLETED')
        failed = event['attempt'] - (event['status'] in {'WORKING', 'COMPLETED'})
        assert event['delays'] == pytest.approx([BACKOFF * 2**number for number in range(failed)])
        if event['status'] != 'DELAYED':
            assert event['wait'] is None
        elif event['wait'] is not None:  # it is if the pause was over when it was looked at
            assert 0 <= event['wait'] <= BACKOFF * 2 ** (failures - 1) + 0.001


def test_the_page_needs_nothing_from_elsewhere(webapp: WebApp) -> None:
    for path, kind in {
        '/': 'text/html',
        '/style.css': 'text/css',
        '/script.js': 'text/javascript',
        '/icon.svg': 'image/svg+xml',
    }.items():
        with webapp.request('GET', path) as response:
            assert response.status == 200
            assert response.headers['Content-Type'].startswith(kind)
            assert response.headers['Content-Security-Policy'] == "default-src 'self'"
            elsewhere = set(re.findall(rb'https?://[^"\s]+', response.read()))
            assert elsewhere <= {b'http://www.w3.org/2000/svg'}  # a name, which is not fetched
    assert webapp.status_of('GET', '/../app.py') in {403, 404}
    assert webapp.status_of('GET', '/nothing') == 404


def test_a_task_succeeds(webapp: WebApp) -> None:
    with webapp.follow(webapp.start('Accounts', 0)) as events:
        told = list(events)
    check_course(told, 0)
    assert told[-1]['result'].endswith(' pages')


def test_a_task_is_tried_again(webapp: WebApp) -> None:
    with webapp.follow(webapp.start('Accounts', 2)) as events:
        told = list(events)
    check_course(told, 2)
    assert 'DELAYED' in [event['status'] for event in told]


def test_two_tasks_at_once_in_one_stream(webapp: WebApp) -> None:
    """One of them is given up."""
    good, bad = webapp.start('Accounts', 1), webapp.start('Sales', 5)
    with webapp.follow(good, bad) as events:
        told = list(events)
    assert {event['id'] for event in told} == {good, bad}
    check_course([event for event in told if event['id'] == good], 1)
    last = told[-1]
    assert (last['id'], last['status'], last['attempt']) == (bad, 'REJECTED', 5)
    assert last['reason'] == 'ConnectionError: the archive does not answer'
    assert last['delays'] == pytest.approx([BACKOFF, 2 * BACKOFF, 4 * BACKOFF, 8 * BACKOFF, None])
    assert told.index(last) > [event['id'] for event in told].index(good)


def test_a_stream_that_is_opened_anew_goes_on(webapp: WebApp) -> None:
    task_id = webapp.start('Accounts', 3)
    told: list[Event] = []
    with webapp.follow(task_id) as events:
        for event in events:
            told.append(event)
            if event['status'] == 'DELAYED':
                break
    with webapp.follow(task_id) as events:
        present = next(events)
        assert (present['attempt'], present['delays']) >= (told[-1]['attempt'], told[-1]['delays'])
        check_course([present, *events], 3)
    with webapp.follow(task_id) as events:  # when all is over it ends at once
        check_course(list(events), 3)


def test_a_task_that_nobody_knows(webapp: WebApp) -> None:
    known = webapp.start('Accounts', 0)
    with webapp.follow('unknown', known) as events:
        told = list(events)
    assert [event for event in told if event['id'] == 'unknown'] == [{'id': 'unknown', 'status': 'UNKNOWN'}]
    check_course([event for event in told if event['id'] == known], 0)


def test_bad_requests(webapp: WebApp) -> None:
    assert webapp.status_of('POST', '/tasks') == 400
    for fields in (
        {'failures': '1'},
        {'name': ' '},
        {'name': 'x' * 101},
        {'name': 'x', 'failures': '6'},
        {'name': 'x', 'failures': '-1'},
        {'name': 'x', 'failures': 'once'},
    ):
        assert webapp.status_of('POST', '/tasks', **fields) == 400, fields
    assert webapp.status_of('GET', '/events') == 400
    assert webapp.status_of('GET', '/events?' + '&'.join(f'id={number}' for number in range(101))) == 400


def test_processes_share_a_queue(webapp: WebApp, url: str, tmp_path: Path) -> None:
    with serving(tmp_path / 'log', '--url', url, *OPTIONS) as another:
        with another.follow(webapp.start('Accounts', 1)) as events:
            check_course(list(events), 1)
        with webapp.follow(another.start('Accounts', 1)) as events:
            check_course(list(events), 1)


def test_it_brings_its_own_server_and_stops_while_somebody_looks(tmp_path: Path) -> None:
    with (
        serving(tmp_path / 'log', '--seconds', '0.05', '--backoff', '60') as webapp,
        webapp.follow(webapp.start('Accounts', 1)) as events,
    ):
        delayed = next(event for event in events if event['status'] == 'DELAYED')
        assert 30 < delayed['wait'] <= 60
        webapp.process.send_signal(signal.SIGINT)
        assert webapp.process.wait(PATIENCE) == 0

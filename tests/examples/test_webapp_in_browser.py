"""The web application as somebody sees it: in headless Chromium, if that is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests import servers
from tests.examples.support import PATIENCE
from tests.examples.webapp import WebApp, serving

CHROMIUM = Path('/usr/bin/chromium')
DRIVER = Path('/usr/bin/chromedriver')

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason='Chromium is missing: apt-get install chromium chromium-driver',
    ),
]

OPTIONS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--window-size=1000,900',
)

NOTE_STATUSES = """
window.told = {};
new MutationObserver(() => {
  for (const card of document.querySelectorAll('#tasks > li'))
    (told[card.querySelector('h2').textContent] ??= []).push(card.querySelector('.status').textContent);
}).observe(document.querySelector('#tasks'), { childList: true, subtree: true, characterData: true });
"""
"""Notes all that the status of a card says, as a test might look away for too long."""


@pytest.fixture(scope='module')
def webapp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    log = tmp_path_factory.mktemp('webapp') / 'log'
    with serving(log, '--url', servers.shared('valkey-9.1').url, '--seconds', '0.2', '--backoff', '0.5') as running:
        yield running


@pytest.fixture(scope='module')
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f'--user-data-dir={tmp_path_factory.mktemp("chromium")}'):
        options.add_argument(option)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    with Chrome(options=options, service=Service(str(DRIVER))) as driver:
        yield driver


class Page:
    """The page in a browser."""

    def __init__(self, chromium: Chrome) -> None:
        self._chromium = chromium

    def start(self, name: str, outcome: str) -> None:
        field = self._chromium.find_element(By.NAME, 'name')
        field.clear()
        field.send_keys(name)
        Select(self._chromium.find_element(By.NAME, 'failures')).select_by_visible_text(outcome)
        self._chromium.find_element(By.CSS_SELECTOR, '#start button').click()

    def cards(self) -> dict[str, dict[str, str]]:
        """What each card shows, by its name, from top to bottom, taken at one moment."""
        cards: list[tuple[str, dict[str, str]]] = self._chromium.execute_script("""
            return [...document.querySelectorAll('#tasks > li')].map((card) => [
              card.querySelector('h2').textContent, {
                status: card.querySelector('.status').textContent,
                detail: card.querySelector('.detail').textContent,
                attempts: [...card.querySelectorAll('.attempt, .pause')].map((part) => part.title).join(', '),
              }]);
        """)
        assert len(cards) == len(dict(cards))
        return dict(cards)

    def wait_for(self, name: str, **expected: str) -> dict[str, str]:
        """Wait until a card shows all this, somewhere in its parts; the card."""

        def shown(_: Chrome) -> dict[str, str] | None:
            card = self.cards().get(name)
            return card if card and all(text in card[part] for part, text in expected.items()) else None

        card = WebDriverWait(self._chromium, PATIENCE, 0.05).until(shown, f'{name} does not show {expected}')
        assert card
        return card

    def note_statuses(self) -> None:
        self._chromium.execute_script(NOTE_STATUSES)

    def statuses(self, name: str) -> list[str]:
        told: list[str] = self._chromium.execute_script('return told[arguments[0]]', name)
        return told

    def reload(self) -> None:
        self._chromium.refresh()

    def clear(self) -> None:
        self._chromium.find_element(By.ID, 'clear').click()


@pytest.fixture
def page(webapp: WebApp, chromium: Chrome) -> Iterator[Page]:
    """The page as at the first visit. Afterwards, nothing has gone wrong in it, or has been fetched from elsewhere."""
    chromium.get('about:blank')  # so that the page of the test before does not write there again
    chromium.execute_cdp_cmd('Storage.clearDataForOrigin', {'origin': webapp.address, 'storageTypes': 'local_storage'})
    chromium.get(webapp.address)
    yield Page(chromium)
    fetched: list[str] = chromium.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [address for address in fetched if not address.startswith(webapp.address)] == []
    assert chromium.get_log('browser') == []  # type: ignore[no-untyped-call]  # selenium's


def test_a_report_is_started_retried_and_ready(page: Page) -> None:
    page.note_statuses()
    page.start('Accounts', 'fails twice')
    card = page.wait_for('Accounts', status='Done at attempt 3', detail='Ready: ')
    assert card['attempts'] == (
        'Attempt 1 failed, A pause of 0.5 s, Attempt 2 failed, A pause of 1 s, Attempt 3 succeeded'
    )
    # The countdowns are seen to go down.
    told = [re.fullmatch(r'Attempt (\d) failed, next in (\S+) s', text) for text in page.statuses('Accounts')]
    left = [(int(seen[1]), -float(seen[2])) for seen in told if seen]
    assert left == sorted(left)
    assert len(set(left)) > 3


def test_a_reload_in_the_middle(page: Page) -> None:
    page.start('Accounts', 'fails three times')
    page.wait_for('Accounts', attempts='Attempt 2 failed')
    page.reload()
    card = page.wait_for('Accounts', attempts='Attempt 2 failed', status='Attempt')
    assert card['detail'] == ''
    page.wait_for('Accounts', status='Done at attempt 4', detail='Ready: ')
    page.reload()
    page.wait_for('Accounts', status='Done at attempt 4', detail='Ready: ')


def test_two_reports_at_once(page: Page) -> None:
    page.start('Accounts', 'fails three times')
    page.start('Sales', 'fails twice')
    page.wait_for('Sales', status='Attempt')
    assert 'Done' not in page.cards()['Accounts']['status']
    assert list(page.cards()) == ['Sales', 'Accounts']
    page.wait_for('Sales', status='Done at attempt 3')
    page.wait_for('Accounts', status='Done at attempt 4')


def test_a_report_that_is_given_up_and_cleared(page: Page) -> None:
    page.start('Accounts', 'fails always')
    page.start('Sales', 'answers at once')
    page.wait_for('Sales', status='Done', attempts='Attempt 1 succeeded')
    page.clear()
    assert list(page.cards()) == ['Accounts']
    page.wait_for(
        'Accounts', status='Failed', detail='Given up after 5 attempts. ConnectionError: the archive does not'
    )
    page.clear()
    assert page.cards() == {}
    page.reload()
    assert page.cards() == {}

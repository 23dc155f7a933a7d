"""Words of messages."""

from __future__ import annotations

import pytest

from torrelque.cli import output
from torrelque.core import wording


@pytest.mark.parametrize(('number', 'text'), [(0, '0 tasks'), (1, '1 task'), (2, '2 tasks'), (2000, '2,000 tasks')])
def test_a_noun_agrees_with_its_number(number: int, text: str) -> None:
    assert wording.counted(number, 'task') == output.counted(number, 'task') == text
    if number < 1000:
        assert wording.counted(str(number), 'task') == text

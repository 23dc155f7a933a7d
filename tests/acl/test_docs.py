"""The rights that the documentation prints are those that the library gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from torrelque import acl

PAGE = Path(__file__).parents[2] / 'docs' / 'least-privilege.md'


@pytest.mark.parametrize('role', acl.ROLES)
def test_the_printed_rights(role: str) -> None:
    (block,) = re.findall(
        rf'^## An? {role}\n[^#]*?```text\nACL SETUSER (.*?)```', PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    _, reset, channels, on, password, *words = block.split()
    assert (reset, channels, on, password) == ('reset', 'resetchannels', 'on', '>secret')
    assert words == ' '.join(acl.rules(role, 'email')).split()

"""The example of groups."""

from __future__ import annotations

import re

from tests.examples.support import output_of
from tests.servers import Server


def test_tenants_take_turns(server: Server) -> None:
    output = output_of('examples/groups.py', server.url)
    of_tenants: dict[str, list[tuple[int, int]]] = {}
    for tenant, number, fence in re.findall(r'^(\w+) +task +(\d+), fence (\d+)$', output, re.MULTILINE):
        of_tenants.setdefault(tenant, []).append((int(number), int(fence)))
    assert {tenant: len(tasks) for tenant, tasks in of_tenants.items()} == {'acme': 12, 'globex': 3, 'initech': 3}
    for tasks in of_tenants.values():
        assert tasks == sorted(tasks), 'in order, and the fence grows'
    last = {
        tenant: int(number) for tenant, number in re.findall(r'^(\w+): .* number (\d+) of 18$', output, re.MULTILINE)
    }
    assert max(last['globex'], last['initech']) <= 12, 'acme did not delay them'

"""The public suite passes where each call is made by a user with no more than the rights of its role."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests import servers
from tests.acl.users import as_all_roles, make_user, refusals, rules
from tests.servers import Server
from tests.transports.settings import LOOPS, Setting, blocked_on
from torrelque import Torrelque, acl
from torrelque.core.keys import LOGICAL_NAMES
from torrelque.testing.conformance import ClientFactory, QueueConformance
from torrelque.testing.conformance.support import CountBlocked

SETTINGS = (
    Setting('native', 'trio', 'valkey-9.1'),
    Setting('coredis', 'trio', 'valkey-9.1'),
    Setting('native', 'asyncio+uvloop', 'redis-8.2'),
    Setting('native', 'asyncio+uvloop', 'redis-7.0'),
    Setting('native', 'asyncio', 'redis-6.2'),
    Setting('redis_py', 'asyncio', 'redis-6.2'),
)


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


class TestConformance(QueueConformance):
    @pytest.fixture(params=SETTINGS, ids=str)
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        chosen: Setting = request.param
        return chosen

    @pytest.fixture
    def server(self, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Server:
        """With a user for each role, who may use each queue of the test once there is an object for it."""
        try:
            server = servers.shared(setting.server)
        except servers.MissingServerError as error:
            pytest.skip(str(error))
        server.flush()  # what lists queues looks at those of other tests, too, which the roles may not read
        for role in acl.ROLES:
            make_user(server, role)
        refusals(server)
        init = Torrelque.__init__

        def init_and_grant(self: Torrelque, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in Torrelque
            init(self, *args, **options)
            keys = {name: self.keys[name].removeprefix(f'{self.queue}:') for name in LOGICAL_NAMES}
            for role in acl.ROLES:
                server.command(
                    'ACL',
                    'SETUSER',
                    role,
                    *rules(server, role, self.queue, keys, capped=True, replacing=True, scheduling=True),
                )

        monkeypatch.setattr(Torrelque, '__init__', init_and_grant)
        return server

    @pytest.fixture
    def client_factory(self, setting: Setting, server: Server) -> ClientFactory:
        return partial(as_all_roles, server, setting.client)

    @pytest.fixture
    def count_blocked(self, server: Server) -> CountBlocked:
        """No role may ask that."""
        return blocked_on(server)

    @pytest.fixture(autouse=True)
    def nothing_is_refused(self, server: Server) -> Any:  # noqa: ANN401 - a generator
        yield
        assert refusals(server) == set()

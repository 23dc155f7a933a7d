"""Django with a backend over a real server, set up once in a test process."""

from __future__ import annotations

from functools import cache
from uuid import uuid4

import pytest

from tests import servers

pytest.importorskip('django')


@cache
def set_up() -> None:
    import django  # noqa: PLC0415 - it may not be installed
    from django.conf import settings  # noqa: PLC0415

    url = servers.shared('valkey-9.1').url
    settings.configure(
        USE_TZ=True,
        INSTALLED_APPS=['torrelque.django'],
        TASKS={
            alias: {
                'BACKEND': 'torrelque.django.Backend',
                'QUEUES': ['default', 'slow'],
                'OPTIONS': {'url': url, 'prefix': f'{uuid4().hex}:', 'attempts': attempts},
            }
            for alias, attempts in (('default', 1), ('again', 3), ('scheduled', 1))
        },
    )
    django.setup()


set_up()

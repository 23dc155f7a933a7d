"""``manage.py torrelque_worker``."""

from __future__ import annotations

import signal
from argparse import ArgumentParser
from typing import Any

import anyio
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from torrelque.django.backend import Backend
from torrelque.django.compat import BaseCommand, task_backends
from torrelque.django.worker import work
from torrelque.errors import TorrelqueError
from torrelque.worker.failures import leaves_of


class Command(BaseCommand):
    """Runs the tasks of the backend's queues until SIGTERM or SIGINT."""

    help: str = 'Run the tasks that were enqueued with torrelque.django.Backend, until SIGTERM or SIGINT.'

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument('--backend', default='default', help='alias of the backend in TASKS (default: default)')
        parser.add_argument(
            '-q',
            '--queue',
            action='append',
            dest='queues',
            metavar='NAME',
            help='a queue; repeat for several (default: all)',
        )
        parser.add_argument(
            '-c', '--concurrency', type=int, default=8, help='tasks of each queue to run at once (default: 8)'
        )
        parser.add_argument(
            '--grace', type=float, default=20.0, help='seconds that tasks have to finish at the end (default: 20)'
        )

    def handle(self, *_: object, **options: Any) -> None:  # noqa: ANN401 - as declared above
        """Run the command until a signal arrives."""
        backend, queues = options['backend'], options['queues']
        chosen = task_backends[backend]
        if not isinstance(chosen, Backend):
            raise CommandError(f'TASKS[{backend!r}] is not a torrelque.django.Backend')
        names = queues or sorted(chosen.queues)
        unknown = set(names) - chosen.queues if chosen.queues else set()
        if unknown or not names:
            raise CommandError(f'TASKS[{backend!r}] has the queues {sorted(chosen.queues)}, not {sorted(unknown)}')
        self.stdout.write(f'Working on {", ".join(names)}, {options["concurrency"]} tasks at once. Stop with Ctrl+C.')
        try:
            anyio.run(_run, chosen, names, options['concurrency'], options['grace'])
        except KeyboardInterrupt:  # while it waited for the server
            raise SystemExit(128 + signal.SIGINT) from None
        except Exception as error:
            first = next(leaves_of(error))
            if isinstance(first, TorrelqueError | ImproperlyConfigured):
                raise CommandError(str(first)) from error
            raise


async def _run(backend: Backend, names: list[str], concurrency: int, grace: float) -> None:
    await work(backend, names, concurrency=concurrency, grace=grace, handle_signals=True)

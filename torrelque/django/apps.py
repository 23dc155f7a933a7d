"""The Django application, which adds the command."""

from __future__ import annotations

from torrelque.django.compat import AppConfig

__all__ = ('TorrelqueConfig',)


class TorrelqueConfig(AppConfig):
    """The configuration of the application in ``INSTALLED_APPS``."""

    name: str = 'torrelque.django'
    label: str = 'torrelque'
    verbose_name: str = 'Torrelque'

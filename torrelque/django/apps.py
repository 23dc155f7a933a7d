"""The application, which brings the command along."""

from __future__ import annotations

from torrelque.django.compat import AppConfig

__all__ = ('TorrelqueConfig',)


class TorrelqueConfig(AppConfig):
    """For ``INSTALLED_APPS``."""

    name: str = 'torrelque.django'
    label: str = 'torrelque'
    verbose_name: str = 'Torrelque'

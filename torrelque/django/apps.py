"""The application, which brings the command along."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ('TorrelqueConfig',)


class TorrelqueConfig(AppConfig):  # type: ignore[misc]  # Django has no annotations
    """For ``INSTALLED_APPS``."""

    name = 'torrelque.django'
    label = 'torrelque'
    verbose_name = 'Torrelque'

"""A backend for Django's Tasks, and the command ``manage.py torrelque_worker``.

Needs the extra ``django``. It works with ``django.tasks`` of Django 6 and with its backport, ``django-tasks``::

    INSTALLED_APPS = [..., 'torrelque.django']
    TASKS = {
        'default': {
            'BACKEND': 'torrelque.django.Backend',
            'OPTIONS': {'url': 'redis://localhost:6379'},
        }
    }
"""

from torrelque.django.backend import Backend

__all__ = ('Backend',)

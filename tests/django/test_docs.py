"""What the page on Django shows works."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests import servers
from tests.sync.test_docs import write_files

SETTINGS = """
SECRET_KEY = 'secret'
USE_TZ = True
DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'mail.db'}}}}
REDIS_URL = '{url}'
TASKS['default']['OPTIONS']['prefix'] = 'page:'
from mail.schedules import SCHEDULES
TASKS['default']['OPTIONS']['schedules'] = SCHEDULES
"""
TRY = """
import json, time, django
django.setup()
from django.test import RequestFactory
from mail import queues, views
from mail.tasks import send_mail
request = RequestFactory().get('/')
assert views.order(request).status_code == 202
result = send_mail.enqueue('ann@example.org', subject='Hello')
while (shown := json.loads(views.status(request, result.id).content))['status'] != 'SUCCESSFUL':
    time.sleep(0.02)
from torrelque.django.compat import task_backends
scheduled = task_backends['default'].queue_of('default').schedules()
assert {each.id for each in scheduled} == {'digest', 'ping'}
print(shown['result'], queues.mail.enqueue({'to': 'joe'}) != '')
"""
PATIENCE = 40


def test_the_page(tmp_path: Path) -> None:
    server = servers.shared('valkey-9.1')
    write_files('django', tmp_path)
    settings = tmp_path / 'settings.py'
    text = settings.read_text(encoding='utf-8').replace('redis://localhost:6379', server.url)
    settings.write_text(text + SETTINGS.format(url=server.url), encoding='utf-8')
    if importlib.util.find_spec('django.tasks') is None:  # it is of Django 6
        tasks = tmp_path / 'mail' / 'tasks.py'
        shown = tasks.read_text(encoding='utf-8')
        tasks.write_text(shown.replace('django.tasks', 'django_tasks'), encoding='utf-8')
    environment = {**os.environ, 'DJANGO_SETTINGS_MODULE': 'settings', 'PYTHONPATH': str(tmp_path)}
    worker = [sys.executable, '-W', 'error', '-m', 'django', 'torrelque_worker', '--concurrency', '2']
    with subprocess.Popen(worker, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE) as working:
        command = [sys.executable, '-W', 'error', '-c', TRY]
        tried = subprocess.run(
            command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=PATIENCE, check=False
        )
        working.terminate()
        said, _ = working.communicate(timeout=PATIENCE)
    assert (tried.returncode, tried.stdout) == (0, '5 True\n'), tried.stderr
    assert working.returncode == 0
    assert said.startswith('Working on default, reports')
    assert 'To joe@example.org: Thanks' in said

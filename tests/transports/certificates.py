"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ('Certificates',)


class Certificates:
    """An authority, and what it signed for 127.0.0.1. Files are made when they are first wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._openssl = shutil.which('openssl') or ''
        if not self._openssl:
            pytest.skip('openssl is missing: apt-get install openssl')
        self.authority, self._key = folder / 'ca.pem', folder / 'ca.key'
        self._run(
            'req', '-x509', *self._new_key(self._key), '-days', '2', '-subj', '/CN=authority', '-out', self.authority
        )

    def signed(self, name: str, address: str = 'IP:127.0.0.1', days: int = 2) -> tuple[Path, Path]:
        """A certificate and its key; with negative ``days`` it has expired."""
        certificate, key, request = [self._folder / f'{name}.{end}' for end in ('pem', 'key', 'csr')]
        extensions = self._folder / f'{name}.ext'
        extensions.write_text(f'subjectAltName={address}')
        self._run('req', *self._new_key(key), '-subj', f'/CN={name}', '-out', request)
        self._run(
            *('x509', '-req', '-in', request, '-CA', self.authority, '-CAkey', self._key, '-CAcreateserial'),
            *('-days', str(days), '-extfile', extensions, '-out', certificate),
        )
        return certificate, key

    @staticmethod
    def _new_key(key: Path) -> tuple[str | Path, ...]:
        return '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', key

    def _run(self, *words: str | Path) -> None:
        subprocess.run([self._openssl, *words], check=True, capture_output=True)

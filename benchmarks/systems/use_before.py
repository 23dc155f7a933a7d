"""The project as it was before the work on its speed, with its defaults: see `environments.BEFORE`."""

from __future__ import annotations

from benchmarks.systems import use_current


class Subject(use_current.Subject):
    pass

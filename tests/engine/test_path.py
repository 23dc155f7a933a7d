"""How much of the library's own code a lone call runs through: fewer files and functions are quicker to run and read.

Counted are the functions of the package that are entered from the call until the event loop has nothing left to do
for it, each once however often it is entered, and the files that hold them. Not counted are the memory transport,
which stands for the server, and comprehensions, which are functions of their own up to Python 3.11 only.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
from anyio.lowlevel import checkpoint

import torrelque
from torrelque import Torrelque
from torrelque.testing import MemoryTransport

ROOT = str(Path(torrelque.__file__).parent)
MODEL = str(Path(ROOT, 'transports', 'memory'))
COMPREHENSIONS = ('<listcomp>', '<setcomp>', '<dictcomp>')

MOST_FILES = 12
MOST_FUNCTIONS = 60


@contextmanager
def entered() -> Iterator[Counter[CodeType]]:
    """How often each function was entered meanwhile, in this thread."""
    seen: Counter[CodeType] = Counter()

    def note(frame: FrameType, event: str, _arg: object) -> None:
        code = frame.f_code
        is_ours = code.co_filename.startswith(ROOT) and not code.co_filename.startswith(MODEL)
        if event == 'call' and is_ours and code.co_name not in COMPREHENSIONS:
            seen[code] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(before)


async def settle() -> None:
    for _ in range(20):
        await checkpoint()


def listed(functions: Counter[CodeType]) -> str:
    """What to read where a bound is passed."""
    return '\n'.join(f'{code.co_filename[len(ROOT) + 1 :]}: {code.co_name} x {functions[code]}' for code in functions)


@pytest.mark.anyio
async def test_a_lone_enqueue_passes_few_files_and_functions() -> None:
    async with Torrelque(MemoryTransport()) as queue:
        await queue.enqueue('first')  # makes the lane, and starts what waits for more
        await settle()
        with entered() as functions:
            await queue.enqueue('second')
            await settle()
    files = {code.co_filename for code in functions}
    assert len(files) <= MOST_FILES, listed(functions)
    assert len(functions) <= MOST_FUNCTIONS, listed(functions)

"""Draws the layers of the code for the page about the architecture: ``python -m docs.layers > layers.svg``.

What is drawn is what the modules import: a package stands above all that it imports. `docs/conf.py` puts the drawing
into the page as it is, so it takes the colours of the theme, light or dark.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torrelque

__all__ = ('Layer', 'draw', 'layers')

PACKAGE = Path(torrelque.__file__).parent
FACADE = 'queue'
"""What ``import torrelque`` is about: a module that imports public names is above it."""

SHARED = 'worker/failures.py'
"""Describes exceptions for several layers, and imports none of them."""

WIDTH, GAP, PADDING = 720, 22, 12
LINE, CHIP, SMALL = 17, 24, 28
NAME_CHARACTER, CHARACTER, TEXT_CHARACTER = 7.9, 6.7, 6.3
"""Pixels of a character in names, modules and text."""


@dataclass
class Layer:
    """A package, or a module at the top of the library."""

    name: str
    about: str
    modules: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)


def layers() -> list[list[Layer]]:
    """Return the layers from top to bottom, those of the same height beside each other, the largest first."""
    found = {layer.name: layer for layer in _read()}
    heights: dict[str, int] = {}
    rows: dict[int, list[Layer]] = {}
    for name, layer in found.items():
        rows.setdefault(_height(name, found, heights), []).append(layer)
    return [sorted(row, key=lambda layer: -len(layer.modules)) for _, row in sorted(rows.items(), reverse=True)]


def _height(name: str, found: Mapping[str, Layer], heights: dict[str, int]) -> int:
    if name not in heights:
        heights[name] = 1 + max((_height(other, found, heights) for other in found[name].imports), default=-1)
    return heights[name]


def _read() -> Iterator[Layer]:
    for path in sorted(PACKAGE.iterdir()):
        package = path / '__init__.py'
        if package.exists():
            inner = sorted(path.iterdir(), key=lambda each: (each.is_dir(), each.name))
            modules = [each.stem for each in inner if each.suffix == '.py' and each != package]
            modules += [f'{each.name}/' for each in inner if (each / '__init__.py').exists()]
            yield Layer(path.name, _about(package), modules, _imports(path))
        elif path.suffix == '.py' and not path.stem.startswith('__'):
            yield Layer(path.stem, _about(path), [], _imports(path))


def _about(path: Path) -> str:
    """The first sentence of a module's docstring."""
    lines = (ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').split('\n\n')[0]
    return ' '.join(lines.split()).partition('. ')[0].rstrip('.').replace('`', '')


def _imports(path: Path) -> set[str]:
    """The other layers that a package or module imports."""
    found: set[str] = set()
    for module in [path] if path.is_file() else path.rglob('*.py'):
        for node in ast.walk(ast.parse(module.read_text(encoding='utf-8'))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == 'torrelque':
                names = [f'torrelque.{alias.name}' for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {layer for name in names if (layer := _layer_of(name))}
    return found - {path.stem}


def _layer_of(name: str) -> str | None:
    """Return the layer that an import reaches, if any; public names count as the queue."""
    package, *parts = name.split('.')
    if package != 'torrelque':
        return None
    if PACKAGE.joinpath(*parts).with_suffix('.py') == PACKAGE / SHARED:
        return None
    modules = [PACKAGE / parts[0] / '__init__.py', PACKAGE / f'{parts[0]}.py'] if parts else []
    return parts[0] if any(path.exists() for path in modules) else FACADE


def draw() -> str:
    """Return the drawing as SVG."""
    parts: list[str] = []
    top = 1.0
    rows = layers()
    for number, row in enumerate(rows):
        large = [layer for layer in row if layer.modules] or row
        small = [layer for layer in row if layer not in large]
        column = max((len(layer.name) * NAME_CHARACTER + 2 * PADDING for layer in small), default=0.0)
        width = (WIDTH - column - GAP / 2 * (len(large) - (not small))) / len(large)
        height = max(*(_box_height(layer, width) for layer in large), len(small) * (SMALL + GAP / 4) - GAP / 4)
        for place, layer in enumerate(large):
            parts += _box(layer, place * (width + GAP / 2), top, width, height)
        share = (height + GAP / 4) / max(len(small), 1)
        for place, layer in enumerate(small):
            parts += _box(layer, WIDTH - column, top + place * share, column, share - GAP / 4)
        top += height
        if number < len(rows) - 1:
            parts.append(_arrow(top))
            top += GAP
    return (
        f'<svg class="layers" xmlns="http://www.w3.org/2000/svg" viewBox="-1 0 {WIDTH + 2} {top + 1:.0f}" width="100%" '
        'role="img" font-family="sans-serif" font-size="12" fill="currentColor" stroke="none">\n'
        '<title>The layers of the code; each imports only what is below it</title>\n' + '\n'.join(parts) + '\n</svg>\n'
    )


def _code_width(text: str) -> float:
    return len(text) * CHARACTER


def _about_lines(layer: Layer, width: float) -> list[str]:
    """The description, wrapped; a small module has room for its name only."""
    return (
        textwrap.wrap(layer.about, int((width - 2 * PADDING) / TEXT_CHARACTER))
        if layer.modules or width == WIDTH
        else []
    )


def _chip_rows(layer: Layer, width: float) -> list[list[str]]:
    rows: list[list[str]] = []
    room = 0.0
    for module in layer.modules:
        needed = _code_width(module) + 18
        if needed > room:
            rows.append([])
            room = width - 2 * PADDING
        rows[-1].append(module)
        room -= needed
    return rows


def _box_height(layer: Layer, width: float) -> float:
    return 2 * PADDING + LINE * (1 + len(_about_lines(layer, width))) + CHIP * len(_chip_rows(layer, width)) - 5


def _box(layer: Layer, left: float, top: float, width: float, height: float) -> Iterator[str]:
    yield (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" fill-opacity="0.05" '
        'stroke="currentColor" stroke-opacity="0.45"/>'
    )
    x = left + PADDING
    y = top + (PADDING + 11 if layer.modules else min(height / 2 + 4, PADDING + 11))
    yield _text(layer.name, x, y, 'font-family="monospace" font-size="13" font-weight="bold"')
    for line in _about_lines(layer, width):
        y += LINE
        yield _text(line, x, y, '')
    y -= 3
    for row in _chip_rows(layer, width):
        y += CHIP
        x = left + PADDING
        for module in row:
            size = f'width="{_code_width(module) + 12:.1f}" height="19"'
            yield f'<rect x="{x:.1f}" y="{y - 13:.1f}" {size} rx="4" fill-opacity="0.08"/>'
            yield _text(module, x + 6, y + 0.5, 'font-family="monospace" font-size="11"')
            x += _code_width(module) + 18


def _text(text: str, x: float, y: float, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _arrow(top: float) -> str:
    middle, end = WIDTH / 2, top + GAP - 3
    return (
        f'<path d="M{middle} {top + 3:.1f}V{end:.1f}m-4 -5l4 5l4 -5" fill="none" stroke="currentColor" '
        'stroke-opacity="0.6" stroke-width="1.4"/>'
    )


if __name__ == '__main__':
    sys.stdout.write(draw())

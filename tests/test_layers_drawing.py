"""The drawing of the architecture shows the code: every module, each layer above what it imports."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree as ET

from docs.layers import SHARED, WIDTH, draw, layers
from tests.test_layers import PACKAGE, import_graph

SVG = '{http://www.w3.org/2000/svg}'


def test_each_import_points_downwards() -> None:
    heights = {layer.name: height for height, row in enumerate(layers()) for layer in row}
    shared = 'torrelque.' + SHARED.removesuffix('.py').replace('/', '.')
    edges = {
        (module.split('.')[1], other.split('.')[1])
        for module, others in import_graph().items()
        for other in others
        if module.count('.') and other.count('.') and other != shared
    }

    upwards = {
        (layer, other)
        for layer, other in edges
        if layer != other and layer in heights and heights[layer] >= heights[other]
    }

    assert upwards == set()
    assert len(edges) > 20


def test_everything_is_drawn_within_the_page() -> None:
    root = ET.fromstring(draw())  # noqa: S314 - our own
    texts = root.findall(f'{SVG}text')
    drawn = [text.text for text in texts]
    left, _, width, height = (float(number) for number in root.attrib['viewBox'].split())

    names = {path.stem for path in PACKAGE.glob('*.py')} | {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    names |= {path.stem for path in PACKAGE.glob('*/*.py')} | {
        f'{path.parent.name}/' for path in PACKAGE.glob('*/*/__init__.py')
    }
    assert {name for name in names if not name.startswith('__')} <= set(drawn)
    assert (left, width) == (-1, WIDTH + 2)
    for box in root.findall(f'{SVG}rect'):
        x, y, wide, high = (float(box.attrib[name]) for name in ('x', 'y', 'width', 'height'))
        assert x >= 0
        assert x + wide <= WIDTH + 0.1
        assert y + high < height


def test_layers_do_not_overlap_and_take_the_colours_of_the_theme() -> None:
    root = ET.fromstring(draw())  # noqa: S314 - our own
    boxes = [box for box in root.findall(f'{SVG}rect') if 'stroke' in box.attrib]
    spans = sorted(
        {
            (float(box.attrib['y']), float(box.attrib['y']) + float(box.attrib['height']))
            for box in boxes
            if box.attrib['x'] == '0.0'
        }
    )

    assert len(spans) == len(layers())
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    colours = {element.attrib.get(name) for element in root.iter() for name in ('fill', 'stroke')}
    assert colours <= {None, 'none', 'currentColor'}

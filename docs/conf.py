"""The documentation's build: `make docs`."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for docs.layers, wherever Sphinx was started

project = 'Torrelque'
copyright = 'the Torrelque authors'
release = version_of('torrelque')
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build', 'performance/*.md']  # what the pages about performance include
html_theme = 'furo'
html_title = f'Torrelque {release}'
nitpicky = False  # types of the clients are named, and their documentation is not fetched
copybutton_prompt_text = '$ '  # a console's prompt is not copied, nor is its output
copybutton_line_continuation_character = '\\'
napoleon_numpy_docstring = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
myst_enable_extensions = ['deflist']
myst_heading_anchors = 3


def _passes_over(app: object, what: str, name: str, member: object, *_: object) -> bool | None:  # noqa: ARG001 - Sphinx's
    """Fields of named tuples that have no description of their own: the signature names them."""
    return True if (member.__doc__ or '').startswith('Alias for field number') else None


def _draw_layers(_: object, name: str, source: list[str]) -> None:
    """Put the drawing of the code's layers into the page, inline so that it has the theme's colours."""
    from docs.layers import draw  # noqa: PLC0415 - found once the path is set

    if name == 'architecture':
        source[0] = source[0].replace('```{layers}\n```', f'```{{raw}} html\n{draw()}```')


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx
    app.connect('autodoc-skip-member', _passes_over)
    app.connect('source-read', _draw_layers)

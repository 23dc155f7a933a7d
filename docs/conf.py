"""The documentation's build: `make docs`."""

from importlib.metadata import version as version_of

project = 'Torrelque'
copyright = 'the Torrelque authors'
release = version_of('torrelque')
extensions = ['myst_parser', 'sphinx.ext.autodoc']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'Torrelque {release}'
nitpicky = False  # types of the clients are named, and their documentation is not fetched
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
myst_enable_extensions = ['deflist']
myst_heading_anchors = 3

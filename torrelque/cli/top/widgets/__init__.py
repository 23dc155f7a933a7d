"""The widgets of `torrelque top`."""

from torrelque.cli.top.widgets.charts import Charts
from torrelque.cli.top.widgets.status import StatusLine
from torrelque.cli.top.widgets.table import Column, RowTable, cell

__all__ = ('Charts', 'Column', 'RowTable', 'StatusLine', 'cell')

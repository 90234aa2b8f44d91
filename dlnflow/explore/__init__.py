"""Pages to look at influence with: one file each, which needs no network.

of_table            items of a table: click a pair, see when one helps the other, and through what
of_language_model   tokens of a store: click one, see what helped it and when
write_page          the same from loss traces, classes and spelled tokens
"""

from dlnflow.explore.language_model import of_language_model
from dlnflow.explore.page import write_page
from dlnflow.explore.table import of_table

__all__ = ["of_language_model", "of_table", "write_page"]

"""Pages to look at influence with: one file each, which needs no network.

of_language_model   tokens of a store: click one, see what helped it and when
write_page          the same from loss traces, classes and spelled tokens
"""

from dlnflow.explore.language_model import of_language_model
from dlnflow.explore.page import write_page

__all__ = ["of_language_model", "write_page"]

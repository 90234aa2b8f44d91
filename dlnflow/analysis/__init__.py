"""What to read off influence curves.

`embedding` stands apart: it is imported as ``from dlnflow.analysis import embedding``, so that
scikit-learn is loaded only where it is used.
"""

from dlnflow.analysis.compare import compare, summary
from dlnflow.analysis.ensemble import ensemble, event_shares
from dlnflow.analysis.events import events
from dlnflow.analysis.explain_offset import explain_offset

__all__ = ["compare", "ensemble", "event_shares", "events", "explain_offset", "summary"]

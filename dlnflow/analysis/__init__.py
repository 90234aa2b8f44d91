"""What to read off influence curves.

`embedding` stands apart: it is imported as ``from dlnflow.analysis import embedding``, so that
scikit-learn is loaded only where it is used.
"""

from dlnflow._support.shared_folder import WorkFolder
from dlnflow.analysis.all_pairs import all_pairs
from dlnflow.analysis.compare import compare, summary
from dlnflow.analysis.ensemble import ensemble, event_shares
from dlnflow.analysis.event_null import event_null, shuffled_event_null
from dlnflow.analysis.events import events
from dlnflow.analysis.explain_events import event_sentences, explain_events
from dlnflow.analysis.explain_offset import explain_offset
from dlnflow.analysis.lds import lds
from dlnflow.analysis.maps import clusters, loss_map, profile_distances
from dlnflow.analysis.most_influential import most_influential
from dlnflow.analysis.shapes import shapes

__all__ = [
    "WorkFolder",
    "all_pairs",
    "clusters",
    "compare",
    "ensemble",
    "event_null",
    "event_sentences",
    "event_shares",
    "events",
    "explain_events",
    "explain_offset",
    "lds",
    "loss_map",
    "most_influential",
    "profile_distances",
    "shapes",
    "shuffled_event_null",
    "summary",
]

"""Reads a page back: its elements, its data, and the integers in it."""

import base64
import json
from html.parser import HTMLParser

import numpy as np

from dlnflow.explore.document import unpacked
from dlnflow.explore.quantised import QuantisedTraces


class Elements(HTMLParser):
    """Start tags with attributes, and the text of scripts."""

    def __init__(self, path):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data


def data_of(path):
    """What the page's own script reads."""
    return json.loads(Elements(path).scripts[0])


def decoded(text):
    """Bytes that stand in a page in base64."""
    return base64.b64decode(text)


def numbers(text, shape):
    """Numbers in single precision."""
    return np.frombuffer(decoded(text), "<f4").astype(float).reshape(shape)


def curves_of(one, times):
    """Curves (T, P) that the page draws from its integers."""
    values = unpacked(decoded(one["values"]), (one["rank"], -1) if one["rank"] else (0, 0), 4)
    return numbers(one["basis"], (one["rank"], times)).T @ values


def checkpoint(data, t):
    """The integers of a checkpoint as an object that computes rows."""
    one = data["checkpoints"][t]
    raw = base64.b64decode(one["values"])
    spread = np.frombuffer(base64.b64decode(one["spread"]), "<f4").astype(float)
    values = unpacked(raw, (one["rows"], len(data["words"])))
    return QuantisedTraces(values, np.array(one["edges"]), spread, np.nan, np.nan)

"""Numbers of the documentation, computed anew; `python -m pytest -m slow tests/numbers`."""

"""Hypothesis profiles and the runs that many tests share."""

import os

# Tests run in as many processes as there are cores: threads of theirs would wait for each other.
# Libraries read it when they are loaded, so that it comes before them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

import dlnflow as dln

hypothesis.settings.register_profile("dev", deadline=None, max_examples=30, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=30, print_blob=True, derandomize=True, database=None
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def paper_run() -> dln.Run:
    """The paper's task from init_std 1e-3, at its default step."""
    return dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)

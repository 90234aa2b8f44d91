"""Built-in data: the paper's hierarchy and a table of living things."""

import numpy as np

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.task import Task

_PAPER_ITEMS = ("dog", "cat", "sparrow", "penguin", "pine", "oak", "rose", "daisy")
_PAPER_FEATURES = (
    "living",
    *("animal", "plant"),
    *("mammal", "bird", "tree", "flower"),
    *_PAPER_ITEMS,
)
MAX_HIERARCHY_ITEMS = 20_000
"""Beyond this the dense N x N arrays of an influence matrix no longer fit a workstation."""


def semantic_hierarchy(levels: int = 4, branching: int = 2) -> Task:
    """Items at the leaves of a balanced tree; one feature per node, shared by all leaves below.

    y[f, i] = 1 if item i lies below node f, else 0. With `levels` = L and `branching` = b there
    are N = b^(L-1) items and 1 + b + ... + b^(L-1) features. The squared singular values of the
    default are 15, 7, 3 (twice) and 1 (four times): one degenerate block per level.

    Parameters
    ----------
    levels : int
        Levels of the tree including the root and the leaves, at least 2.
    branching : int
        Children per node, at least 2.

    Returns
    -------
    Task
        One-hot inputs. The default has the names of living things (dog, cat, sparrow, ...);
        other sizes have generated names such as ``item3`` and ``level1.node0``.

    Raises
    ------
    ValueError
        If a size is below 2 or the tree would have more than 20,000 items.

    References
    ----------
    Saxe, McClelland, Ganguli 2019, "A mathematical theory of semantic development in deep neural
    networks"; Lee et al. 2025, "Influence Dynamics and Stagewise Data Attribution", appendix C.1.

    Examples
    --------
    >>> task = semantic_hierarchy()
    >>> task.items[:4], (task.modes.s**2).round(6).tolist()
    (('dog', 'cat', 'sparrow', 'penguin'), [15.0, 7.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    """
    levels = checks.positive_integer("levels", levels)
    branching = checks.positive_integer("branching", branching)
    if levels < 2 or branching < 2:
        raise ValueError(f"`levels` and `branching` must be >= 2, got {levels} and {branching}.")
    n_items = branching ** (levels - 1)
    if n_items > MAX_HIERARCHY_ITEMS:
        raise ValueError(f"the tree would have {n_items} items; at most {MAX_HIERARCHY_ITEMS}.")
    y = np.concatenate([_level(depth, levels, branching) for depth in range(levels)])
    if (levels, branching) == (4, 2):
        return Task(y, items=_PAPER_ITEMS, features=_PAPER_FEATURES)
    names = [f"level{d}.node{k}" for d in range(levels) for k in range(branching**d)]
    return Task(y, features=names)


def _level(depth: int, levels: int, branching: int) -> FloatArray:
    """Indicator rows of the nodes at one depth: shape (branching^depth, N)."""
    leaves_below = branching ** (levels - 1 - depth)
    return np.repeat(np.eye(branching**depth), leaves_below, axis=1)


# What each thing is, can do and has; every line is a fact about the living thing at its left.
_LIVING_THINGS = {
    "dog": (
        "is animal, mammal, furry, warm-blooded",
        "can move, run, bark",
        "has skin, legs, fur, tail",
    ),
    "cat": (
        "is animal, mammal, furry, warm-blooded",
        "can move, run, climb, purr",
        "has skin, legs, fur, tail, claws",
    ),
    "mouse": (
        "is animal, mammal, furry, warm-blooded, small",
        "can move, run, climb",
        "has skin, legs, fur, tail",
    ),
    "cow": (
        "is animal, mammal, warm-blooded, big",
        "can move, run, graze",
        "has skin, legs, fur, tail, horns",
    ),
    "sparrow": (
        "is animal, bird, warm-blooded, small",
        "can move, fly, sing",
        "has skin, legs, feathers, wings, beak",
    ),
    "robin": (
        "is animal, bird, warm-blooded, small, red",
        "can move, fly, sing",
        "has skin, legs, feathers, wings, beak",
    ),
    "eagle": (
        "is animal, bird, warm-blooded, big",
        "can move, fly, hunt",
        "has skin, legs, feathers, wings, beak, claws",
    ),
    "penguin": (
        "is animal, bird, warm-blooded",
        "can move, swim, hunt",
        "has skin, legs, feathers, wings, beak",
    ),
    "salmon": ("is animal, fish, red", "can move, swim", "has skin, scales, fins, gills, tail"),
    "sunfish": ("is animal, fish, yellow", "can move, swim", "has skin, scales, fins, gills, tail"),
    "shark": ("is animal, fish, big", "can move, swim, hunt", "has skin, fins, gills, tail, teeth"),
    "pine": (
        "is plant, tree, evergreen, big",
        "can grow-tall",
        "has roots, bark-cover, branches, needles, cones",
    ),
    "spruce": (
        "is plant, tree, evergreen, big",
        "can grow-tall",
        "has roots, bark-cover, branches, needles, cones",
    ),
    "oak": (
        "is plant, tree, big",
        "can grow-tall, shed",
        "has roots, bark-cover, branches, leaves, acorns",
    ),
    "birch": (
        "is plant, tree, white",
        "can grow-tall, shed",
        "has roots, bark-cover, branches, leaves",
    ),
    "rose": ("is plant, flower, red", "can bloom", "has roots, leaves, petals, thorns"),
    "daisy": ("is plant, flower, small, white", "can bloom", "has roots, leaves, petals"),
    "tulip": ("is plant, flower, red", "can bloom", "has roots, leaves, petals, bulb"),
    "sunflower": (
        "is plant, flower, yellow, big",
        "can bloom, grow-tall",
        "has roots, leaves, petals, seeds",
    ),
}


def living_things() -> Task:
    """Nineteen animals and plants with what they are, can do and have, as 0/1 features.

    A table in the manner of Rumelhart and of Rogers & McClelland: less regular than
    `semantic_hierarchy` (features cross branches: things that swim, are red, or are big), so its
    singular values are all different and its modes follow the taxonomy only roughly.

    Returns
    -------
    Task
        One-hot inputs; features are named "is animal", "can fly", "has fur", ...

    References
    ----------
    Rumelhart & Todd 1993; Rogers & McClelland 2004, "Semantic Cognition". The table is ours.

    Examples
    --------
    >>> task = living_things()
    >>> task.n_items, "can fly" in task.features
    (19, True)
    """
    facts = {item: _facts(lines) for item, lines in _LIVING_THINGS.items()}
    features = list(dict.fromkeys(fact for item in facts.values() for fact in item))
    y = np.array([[float(f in facts[item]) for item in facts] for f in features])
    return Task(y, items=tuple(facts), features=features)


def _facts(lines: tuple[str, ...]) -> list[str]:
    """Split "is a, b" into ["is a", "is b"]; every thing is living and can grow."""
    facts = ["is living", "can grow"]
    for line in lines:
        verb, _, rest = line.partition(" ")
        facts += [f"{verb} {word}" for word in rest.split(", ")]
    return facts

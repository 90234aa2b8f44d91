"""Pages say of figures at quick scale what the expectations of their tests say."""

import pytest

from tests.numbers.figures import DIGITS, expected, of_models
from tests.numbers.pages import differences, rows, said, table

QUERIES = ("cat", "sparrow", "pine")
SENTENCES = [
    ("free energies n L + lambda log n + c cross at n* = #", "fig01_phases", ["n_star"]),
    (
        "it is # for p on q, which are learned together, and # for p on r",
        "fig01_phases",
        ["influence.pq.at_star", "influence.pr.at_star"],
    ),
    ("The extrema lie at n = # and #,", "fig01_phases", ["trough.pq", "peak.pr"]),
    ("The shaded range, # to #,", "fig01_phases", ["half_maximum.low", "half_maximum.high"]),
    ("last for # relaxation times", "fig06_hyperparameters", ["mixed.shortest"]),
    ("where they last for # or fewer", "fig06_hyperparameters", ["not_mixed.longest"]),
    ("have not mixed score up to #,", "fig06_hyperparameters", ["best_not_mixed"]),
    ("siblings help until flow time #", "susceptibility", ["layer2.sibling.flip"]),
    ("Up to flow time # no checkpoint", "llc_over_training", ["whole.at_minimum_from"]),
    (
        "all weights is # ± #; # is exact",
        "llc_over_training",
        ["calibration.whole", "calibration.error", "calibration.exact"],
    ),
    (
        "reaches the same #, layer 1 alone #:",
        "llc_over_training",
        ["calibration.layer2", "calibration.layer1"],
    ),
    ("their stability is #", "map", ["clusters.stability_after"]),
]


@pytest.mark.parametrize("words, figure, keys", SENTENCES, ids=[s[1] for s in SENTENCES])
def test_a_sentence_says_what_is_expected(words, figure, keys):
    shown = said("figures.md", words)
    assert differences(shown, [expected(figure)[key] for key in keys]) == []


def test_settings_of_the_sampler():
    claims = expected("fig06_hyperparameters")
    shown = table("figures.md", "of 60 settings")
    for kind in ("mixed", "not mixed", "diverged", "refused"):
        assert differences(shown[kind][:1], [100 * claims[f"share.{kind}"]]) == []
    assert differences([shown["mixed"][1].split()[0]], [claims["best_mixed"]]) == []
    assert differences(shown["not mixed"][1:], [claims["best_not_mixed"]]) == []
    unsampled = table("figures.md", "not sampled at all, same checkpoints")
    names = {"gradient": "gradient_kernel", "laplace_bif": "laplace_bif", "exact": "tangent"}
    for row, cells in unsampled.items():
        assert differences(cells, [claims[names[row.split()[0]]]]) == []


@pytest.mark.parametrize(
    "row, curve",
    [
        ("a quarter removed", "removed 0.25"),
        ("a half removed", "removed 0.5"),
        ("all removed", "removed 1"),
        ("closed form", "analytic"),
        ("present step only", "dot product, local"),
        ("past steps, not amplified", "displacement"),
    ],
)
def test_offsets_of_peaks(row, curve):
    claims, shown = expected("explain_offset"), table("figures.md", "peak of dog's influence on")
    assert differences(shown[row], [claims[f"{curve}.{q}.peak_offset"] for q in QUERIES]) == []
    peaks = [claims[f"tangent.{q}.peak"] for q in QUERIES]
    assert differences(shown["exact tangent"], peaks) == []


def test_limits_of_bif():
    claims = expected("bif_limits")
    inside = table("figures.md", "entries within 3 standard errors")
    for row, key in (
        ("gamma ratio 3 to 100", "within_3"),
        ("gamma ratio 0.3 and 1", "left.within_3"),
    ):
        values = [100 * claims[f"n_beta {n}.{key}"] for n in ("1e+06", "100")]
        assert differences(inside[row], values) == []
    for row, cells in table("figures.md", "curves").items():
        kind, other = row.split(" BIF, ")
        for column, ratio in zip(cells, ("0.3", "3", "100"), strict=True):
            keys = [f"n_beta {n}.{other}.{kind} at {ratio}" for n in ("1e+06", "100")]
            assert differences([column], [claims[k] for k in keys if column]) == [], (row, ratio)


def test_when_items_part():
    claims = expected("map")
    for row, (parting, mode) in table("figures.md", "items").items():
        kin = {"far": "far", "cousins": "cousin", "siblings": "sibling"}[row]
        assert differences([parting], [claims[f"{kin}.parting"]]) == []
        assert differences([mode.split()[0]], [claims[f"{kin}.shared_mode"]]) == []


def test_cheap_measures_against_exact_ones():
    pages = [
        (("estimator", "Pearson: tangent"), ("pearson tangent", "pearson leave_one_out")),
        (("estimator", "peak offset, %"), ("offset leave_one_out", "lds")),
    ]
    for header, quantities in pages:
        for name, *cells in rows("nonlinear.md", *header):
            for cell, quantity in zip(cells, quantities, strict=True):
                assert differences([cell], of_models(name, quantity)) == [], (name, quantity)


def test_digits_at_quick_scale():
    claims = expected("digits")
    shown = table("nonlinear.md", "measured over pairs of different classes")
    assert set(shown) == set(DIGITS)
    for row, keys in DIGITS.items():
        assert differences(shown[row][:1], [claims[key] for key in keys]) == [], row

"""Pages say of figures at paper scale what the figures claim when they are drawn anew."""

import numpy as np
import pytest

import dlnflow as dln
from tests.numbers.figures import drawn
from tests.numbers.pages import differences, rows, said, table

pytestmark = pytest.mark.slow
NAMES = {
    "BIF": "bif",
    "closed form": "analytic",
    "exact tangent": "tangent",
    "tangent": "tangent",
    "leave-one-out": "leave_one_out",
}
SAMPLED = {"bif": 0.02}
"""Share that the rounding of a library may move in what is sampled."""
LEVELS = ["shared", "animal, plant", "mammal, bird; tree, flower", "siblings"]
STAGES = [
    "onset",
    "branching",
    "leave_one_out_peak_minus_onset",
    "tangent_peak_minus_onset",
    "tangent_second_trough_minus_branching",
]


def test_modes_and_their_half_times():
    claims, shown = drawn("fig02_dataset"), table("figures.md", "modes", "s^2")
    for k, level in enumerate(LEVELS):
        square, _, simulated, theory = shown[level]
        assert differences([square], [claims[f"squared_strength.level{k}"]]) == []
        assert differences([simulated], [claims[f"half_time.level{k}"]]) == []
        assert differences([theory], [claims[f"half_time_theory.level{k}"]]) == []
    largest = said(
        "figures.md", "distance between theory and simulation is # % of a mode's strength"
    )
    assert differences(largest, [100 * claims["theory_error_relative_max"]]) == []


def test_correlations_of_the_features():
    words = "Siblings correlate at # (29/44), cousins at # (14/44) and far items at #"
    task = dln.semantic_hierarchy()
    correlation = np.corrcoef(task.y.T)
    dog, *others = (task.items.index(name) for name in ("dog", "cat", "sparrow", "pine"))
    assert differences(said("figures.md", words), correlation[dog, others]) == []


def test_events_of_dog():
    claims = drawn("fig03_influence")
    for query, estimator, *cells in rows("figures.md", "dog on", "estimator"):
        name = f"{NAMES[estimator]}.{query.split()[0]}"
        keys = [f"{name}.{event}" for event in ("trough", "first_flip", "peak", "sign_flips")]
        wanted = [claims[key] for key, cell in zip(keys, cells, strict=True) if cell != "none"]
        assert differences(cells, wanted, relative=SAMPLED.get(NAMES[estimator], 0.0)) == [], name
        absent = [key for key, cell in zip(keys, cells, strict=True) if cell == "none"]
        assert not set(absent) & set(claims)


def test_how_estimators_of_dog_agree():
    claims = drawn("fig03_influence")
    bif = table("figures.md", "BIF against")
    for row, cells in bif.items():
        keys = [f"bif_vs_{NAMES[row]}.{q}.pearson" for q in ("cat", "sparrow", "pine")]
        assert differences(cells, [claims[key] for key in keys], relative=0.03) == [], row
    against = table("figures.md", "estimator", "sibling", "cousin", "far")
    for row, cells in against.items():
        keys = [f"{NAMES[row]}_vs_leave_one_out.{q}.pearson" for q in ("cat", "sparrow", "pine")]
        assert differences(cells, [claims[key] for key in keys]) == [], row
    assert (
        differences(said("figures.md", "times one factor, # ("), [claims["bif.scale"]], units=5)
        == []
    )


def test_stages():
    claims = drawn("fig04_stages")
    for row, cells in table("figures.md", "dog and").items():
        shown = [cell.replace("- ", "-").replace("+ ", "+") for cell in cells]
        assert differences(shown, [claims[f"{row}.{key}"] for key in STAGES]) == [], row


def test_peaks_of_other_train_items():
    claims = drawn("fig07_more_items")
    kinds = {"the sibling": "sibling", "cousins (mean)": "cousin", "far items (mean)": "far"}
    columns = ("bif", "analytic", "tangent", "leave_one_out")
    for row, cells in table("figures.md", "peak on", "BIF").items():
        for name, cell in zip(columns, cells, strict=True):
            keys = [
                f"{name}.{item}.{kinds[row]}.peak" for item in ("cat", "sparrow", "pine", "rose")
            ]
            values = [claims[key] for key in keys]
            ends = [min(values), max(values)] if " to " in cell else values[:1]
            assert differences([cell], ends, relative=SAMPLED.get(name, 0.0)) == [], (row, name)


def test_agreement_by_kinship():
    claims = drawn("fig08_all_pairs")
    for comparison, kin, *cells in rows("figures.md", "comparison", "kinship"):
        one, other = (NAMES[word] for word in comparison.split(" against "))
        name = f"{one}_vs_{other}.{kin}"
        keys = [
            f"{name}.{key}"
            for key in ("pearson_mean", "pearson_min", "peak_offset", "trough_offset")
        ]
        shown = [cell for cell in cells if cell != "none"]
        wanted = [claims[key] for key in keys[: 4 if len(shown) == 3 else 3]]
        share = 0.05 if one == "bif" else 0.0
        assert differences(shown, wanted, relative=share) == [], name
    medians = said(
        "figures.md", "the median Pearson of BIF is # with the tangent and # with leave-one-out"
    )
    keys = ("bif_vs_tangent.pearson_median", "bif_vs_leave_one_out.pearson_median")
    assert differences(medians, [claims[key] for key in keys], relative=0.02) == []


def test_damped_influence():
    hessian, gauss_newton = drawn("fig09_damped_hessian"), drawn("fig10_damped_gauss_newton")
    table_of_dampings = table("figures.md", "alpha", "0.01")
    (shown,) = table_of_dampings.values()
    wanted = [100 * hessian[f"indefinite.{alpha}"] for alpha in ("0.01", "0.046", "0.22", "1")]
    assert differences(shown, wanted) == []
    best = table("figures.md", "median Pearson, best over alpha")
    for row, claims in (("damped Hessian", hessian), ("damped Gauss-Newton", gauss_newton)):
        keys = [
            f"{name}.{key}"
            for name in ("leave_one_out", "tangent")
            for key in ("best_pearson", "best_damping")
        ]
        assert differences(best[row], [claims[key] for key in keys]) == [], row
    keys = [f"gradient_kernel.{name}.pearson" for name in ("leave_one_out", "tangent")]
    assert differences(best["gradient kernel"], [hessian[key] for key in keys]) == []
    least = said("figures.md", "At alpha = 0.01 damped Gauss-Newton has # and #.")
    keys = [f"{name}.pearson_at_least_damping" for name in ("leave_one_out", "tangent")]
    assert differences(least, [gauss_newton[key] for key in keys]) == []


def test_windows():
    claims = drawn("fig11_windows")
    for row, cells in table("figures.md", "query, width").items():
        query, width = row.split(", ")
        keys = ("trough", "peak", "flip", "first_order", "ratio")
        assert differences(cells, [claims[f"{query}.{width}.{key}"] for key in keys]) == [], row


def test_retraining_predicted():
    claims = drawn("fig12_closed_form")
    shown = table("figures.md", "initial standard deviation")
    for cells, key, factor in (
        (shown["closed form: largest error"], "riccati.error", 100),
        (shown["smallest Pearson"], "riccati.pearson", 1),
        (shown["Gram flow: largest error"], "gram.error", 1),
    ):
        stds = ("0.0001", "0.001", "0.01", "0.05", "0.1")
        assert differences(cells, [factor * claims[f"{key}.{std}"] for std in stds]) == [], key


def test_retraining_predicted_as_the_derivation_says():
    claims = drawn("fig12_closed_form")
    for std, cells in table("derivations/flow.md", "init std").items():
        key = f"{float(std):g}"
        values = [claims[f"riccati.pearson.{key}"], 100 * claims[f"riccati.error.{key}"]]
        assert differences(cells[2:4], values) == [], std
        assert differences(cells[5:6], [100 * claims[f"gram.error.{key}"]]) == [], std


SENTENCES = [
    (
        "closed form and tangent correlate over time at a median of # and a minimum of #.",
        "fig08_all_pairs",
        ["seed0.pearson_median", "seed0.pearson_min"],
    ),
    (
        "(448 pairs) the median is # and the minimum #.",
        "fig08_all_pairs",
        ["analytic_vs_tangent.pearson_median", "analytic_vs_tangent.pearson_min"],
    ),
]


@pytest.mark.parametrize("words, figure, keys", SENTENCES, ids=[s[1] for s in SENTENCES])
def test_a_sentence_says_what_is_drawn(words, figure, keys):
    assert differences(said("figures.md", words), [drawn(figure)[key] for key in keys]) == []


def test_samplers_on_known_targets():
    claims = drawn("selftest_figure")
    exact = {"rank1": 5.5, "rank2": 10, "rank3": 13.5}
    kernels = {
        "SGLD": "sgld",
        "RMSProp-SGLD (Algorithm 1)": "rmsprop_sgld",
        "RMSProp-SGLD, frozen": "rmsprop_sgld, frozen",
        "MALA": "mala",
        "underdamped": "underdamped",
    }
    for row, cells in table("figures.md", "kernel", "6-1-6 (5.5)").items():
        ratios = [claims[f"{kernels[row]}.coefficient.{k}"] / exact[k] for k in exact]
        assert differences([cell.split()[0] for cell in cells], ratios, relative=0.02) == [], row
    shown = table("figures.md", "step size times curvature")
    for row, target in (
        ("isotropic Gaussian, frozen", "isotropic"),
        ("quartic, frozen", "quartic"),
    ):
        keys = [f"rmsprop_sgld, frozen.{target}.{step}" for step in ("0.03", "0.2", "0.8")]
        assert differences(shown[row], [claims[key] for key in keys], relative=0.01) == [], row


def test_samplers_as_the_page_on_sampling_says():
    claims = drawn("selftest_figure")
    targets = {
        "isotropic": "isotropic",
        "ill-conditioned,": "ill-conditioned",
        "quartic": "quartic",
    }
    for kernel, target, *cells in rows("sampling.md", "kernel", "target"):
        name = targets.get(target.split()[0])
        if name is None:  # learning coefficients at larger steps are not among the claims
            continue
        keys = [f"{kernel}.{name}.{step}" for step in ("0.03", "0.2", "0.8")]
        measured = [cell.split()[0] for cell in cells]
        assert differences(measured, [claims[k] for k in keys], relative=0.01) == [], keys[0]

"""What section 3 and appendix C of the paper claim about the toy network, and what was measured."""

from paper_figures._verdicts import (
    Claim,
    Number,
    Row,
    above,
    around_zero,
    below,
    of_figure,
    smallest,
    total,
)

PAIRS = ("pine", "sparrow", "cat")
"""Parted from dog by levels 1, 2 and 3."""
KNOWN = {"rank1": 5.5, "rank2": 10.0, "rank3": 13.5}
"""Exact learning coefficients of the networks of the self-test, by rank."""


def half(level: int) -> Number:
    """Half-time of the modes of a level."""
    return of_figure("fig02_dataset", f"half_time.level{level}")


def influence(name: str) -> Number:
    """Return a number of figure 3, influence of dog."""
    return of_figure("fig03_influence", name)


def peak_inside(query: str, level: int) -> Number:
    """How far inside its stage a peak of leave-one-out lies: > 0 between the two half-times."""
    peak = influence(f"leave_one_out.{query}.peak")
    return smallest([peak - half(level - 1), half(level) - peak])


def nearest(kind: str) -> Number:
    """By how much peaks are closer to the parting of their own pair than to any other."""
    parting = {query: of_figure("fig04_stages", f"{query}.{kind}") for query in PAIRS}
    onset = {query: of_figure("fig04_stages", f"{query}.onset") for query in PAIRS}
    offset = {
        query: of_figure("fig04_stages", f"{query}.leave_one_out_peak_minus_onset")
        for query in PAIRS
    }
    margins = []
    for query in PAIRS:
        # the values alone: their tolerances are those of one time, not of three
        peak = onset[query].value + offset[query].value
        own = abs(peak - parting[query].value)
        others = min(abs(peak - parting[other].value) for other in PAIRS if other != query)
        error = offset[query].high - offset[query].value
        margins.append(Number(others - own, others - own - 2 * error, others - own + 2 * error))
    return smallest(margins)


def agreement(name: str) -> Number:
    """Smallest correlation over time with leave-one-out, of dog on a query of each kinship."""
    return smallest(influence(f"{name}_vs_leave_one_out.{query}.pearson") for query in PAIRS)


def coefficient_error(kernel: str) -> Number:
    """Sum of the errors of three learning coefficients."""
    return total(
        abs(of_figure("selftest_figure", f"{kernel}.coefficient.{rank}") - Number(*3 * (exact,)))
        for rank, exact in KNOWN.items()
    )


SEED0, THREE, NONE = "seed 0", "seeds 0 to 2", "none"
LARGE_START = of_figure("fig12_closed_form", "riccati.error.0.1")
TOY = (
    Claim(
        "3.1",
        "Broad distinctions are learned before finer ones, one level after the other.",
        "The smallest gap between the half-times of successive levels, flow time.",
        above(0),
        [Row(SEED0, NONE, smallest(half(k) - half(k - 1) for k in (1, 2, 3)))],
    ),
    Claim(
        "3.2",
        "The influence of a sample changes sign during training.",
        "The fewest sign flips of a curve: leave-one-out over all pairs of different items, closed "
        "form and sampled Bayesian influence of dog on cat, sparrow and pine.",
        above(0.5),
        [
            Row(
                f"leave-one-out, {THREE}",
                NONE,
                of_figure("fig08_all_pairs", "leave_one_out.fewest_sign_flips"),
            ),
            *(
                Row(
                    f"{title}, {SEED0}",
                    chains,
                    smallest(influence(f"{name}.{query}.sign_flips") for query in PAIRS),
                )
                for title, name, chains in (
                    ("closed form", "analytic", NONE),
                    ("Bayesian", "bif", "4"),
                )
            ),
        ],
    ),
    Claim(
        "3.3",
        "Influence varies non-monotonically: it has a trough, then a peak.",
        "The shortest time from the trough to the peak, dog on cat and sparrow (by the Bayesian "
        "estimator pine has no trough).",
        above(0),
        [
            Row(
                f"{title}, {SEED0}",
                chains,
                smallest(
                    influence(f"{name}.{query}.peak") - influence(f"{name}.{query}.trough")
                    for query in PAIRS[1:]
                ),
            )
            for title, name, chains in (
                ("leave-one-out", "leave_one_out", NONE),
                ("closed form", "analytic", NONE),
                ("Bayesian", "bif", "4"),
            )
        ],
    ),
    Claim(
        "3.4",
        "Bayesian influence, closed form and leave-one-out show similar patterns (figure 3).",
        "The smallest Pearson correlation over training with leave-one-out, dog on cat, sparrow "
        "and pine. Similar is taken as above 0.5.",
        above(0.5),
        [
            Row(f"closed form, {SEED0}", NONE, agreement("analytic")),
            Row(f"Bayesian, {SEED0}", "4", agreement("bif")),
        ],
    ),
    Claim(
        "3.5",
        "Influence on items of one branch is alike early and told apart later.",
        "Influence of dog on sparrow over that on cat by leave-one-out, at the half-time of the "
        "shared mode.",
        above(0.5),
        [Row(SEED0, NONE, influence("leave_one_out.sparrow_over_cat.at_level0"))],
    ),
    Claim(
        "3.6",
        "The same, told apart later.",
        "The same ratio at the half-time of mammal | bird.",
        below(0),
        [Row(SEED0, NONE, influence("leave_one_out.sparrow_over_cat.at_level2"))],
    ),
    Claim(
        "3.7",
        "Dog helps sparrow while animal | plant is being learned.",
        "The time of the most helpful influence by leave-one-out minus the half-time of "
        "animal | plant.",
        below(0),
        [Row(SEED0, NONE, influence("leave_one_out.sparrow.trough") - half(1))],
    ),
    Claim(
        "3.8",
        "An item harms another while the level that tells them apart is being learned.",
        "How far the peak of leave-one-out lies inside the stage, from the half-time of the level "
        "before to that of the level itself; flow time.",
        above(0),
        [
            Row(f"dog on {query}, {SEED0}", NONE, peak_inside(query, level))
            for level, query in enumerate(PAIRS, start=1)
        ],
    ),
    Claim(
        "3.9",
        "Peaks occur when the model begins to learn a new level of distinction.",
        "By how much the peak of leave-one-out is closer to the onset of the parting of its own "
        "pair than to that of another pair; the smallest of three, flow time.",
        above(0),
        [Row(SEED0, NONE, nearest("onset"))],
    ),
    Claim(
        "3.10",
        "Peaks match the branching points of the hidden representations.",
        "The same with the branching at the fastest separation. Read as the onset of the "
        "separation, the claim is 3.9.",
        above(0),
        [Row(SEED0, NONE, nearest("branching"))],
    ),
)
APPENDIX = (
    Claim(
        "C.1",
        "The best settings of the sampler follow retraining.",
        "The best median Pearson correlation with leave-one-out over all pairs, of 60 and of 1,296 "
        "settings. The best of the latter beats the posterior that it samples (0.71).",
        above(0.5),
        [
            Row(f"60 settings, {SEED0}", "2", of_figure("fig06_hyperparameters", "best")),
            Row(f"1,296 settings, {SEED0}", "4", of_figure("fig06_sweep", "best")),
        ],
    ),
    Claim(
        "C.2",
        "The agreement changes smoothly with the settings.",
        "The correlation between the scores of settings that differ by one step in one option, of "
        "1,296; 2,204 pairs. Shuffled scores stay below 0.04 in 95 % of cases.",
        above(0.5),
        [
            Row(
                f"all with a score, {SEED0}",
                "4",
                of_figure("fig06_sweep", "smooth.all.correlation"),
            ),
            Row(
                f"those that mix, {SEED0}",
                "4",
                of_figure("fig06_sweep", "smooth.mixed.correlation"),
            ),
        ],
    ),
    Claim(
        "C.3",
        "RMSProp-SGLD estimates learning coefficients better than plain SGLD.",
        "The sum of the errors of three known learning coefficients, RMSProp-SGLD (Algorithm 1) "
        "minus plain SGLD at the same step of the stiffest direction.",
        below(0),
        [
            Row(
                "6-3-6, ranks 1 to 3",
                "64",
                coefficient_error("rmsprop_sgld") - coefficient_error("sgld"),
            )
        ],
    ),
    Claim(
        "C.4",
        "Decay rate and stability constant hardly matter.",
        "By how much the score changes between a decay of 0.8 and 0.95, and over stabilities of "
        "0.001, 0.01 and 0.1, all else equal. Hardly is taken as below 0.05.",
        below(0.05),
        [
            Row(f"{option}, {SEED0}", "4", of_figure("fig06_sweep", f"range.{option}"))
            for option in ("decay", "stability")
        ],
    ),
    Claim(
        "C.5",
        "Leave-one-out and Bayesian influence agree for the median pair of items.",
        "The median Pearson correlation over training, all pairs.",
        above(0.5),
        [Row(SEED0, "4", of_figure("fig08_all_pairs", "bif_vs_leave_one_out.pearson_median"))],
    ),
    Claim(
        "C.6",
        "They agree for every pair, as perturbing other samples shows a consistent trend.",
        "The smallest Pearson correlation over training with leave-one-out, all pairs.",
        above(0.5),
        [
            Row(
                f"closed form, {THREE}",
                NONE,
                of_figure("fig08_all_pairs", "analytic_vs_leave_one_out.pearson_min"),
            ),
            Row(
                f"Bayesian, {SEED0}",
                "4",
                of_figure("fig08_all_pairs", "bif_vs_leave_one_out.pearson_min"),
            ),
        ],
    ),
    Claim(
        "C.7",
        "The damped classical influence shows the same trend.",
        "The best median Pearson correlation with leave-one-out over the dampings.",
        above(0.5),
        [
            Row(f"{title}, {SEED0}", NONE, of_figure(figure, "leave_one_out.best_pearson"))
            for title, figure in (
                ("Hessian", "fig09_damped_hessian"),
                ("Gauss-Newton", "fig10_damped_gauss_newton"),
            )
        ],
    ),
    Claim(
        "C.8",
        "Leaving dog out for a while harms most where its influence is highest.",
        "The middle of the most harmful window (width 0.25) minus the time of the peak; the "
        "width of the window is allowed either way.",
        around_zero(0.25),
        [
            Row(
                f"{title}, dog on {query}, {SEED0}",
                NONE,
                of_figure("fig11_windows", f"{query}.middle_minus_{name}"),
            )
            for title, name in (("derivative", "tangent"), ("leave-one-out", "leave_one_out"))
            for query in ("cat", "sparrow")
        ],
    ),
    Claim(
        "C.9",
        "The critical period of sparrow is earlier than that of cat.",
        "The start of the most harmful window, cat minus sparrow, flow time.",
        above(0),
        [
            Row(
                SEED0,
                NONE,
                of_figure("fig11_windows", "cat.0.25.peak")
                - of_figure("fig11_windows", "sparrow.0.25.peak"),
            )
        ],
    ),
    Claim(
        "C.10",
        "Modes are learned along the closed form (equation 30).",
        "The largest distance from the simulation, as a share of the mode's strength.",
        below(0.1),
        [Row(SEED0, NONE, of_figure("fig02_dataset", "theory_error_relative_max"))],
    ),
    Claim(
        "C.11",
        "Small initial weights make the assumption of aligned modes hold.",
        "The largest relative error of leave-one-out by the closed form that makes it, standard "
        f"deviation 1e-3. At 0.1, which is not small, it is {LARGE_START.value:.2f}.",
        below(0.05),
        [Row(SEED0, NONE, of_figure("fig12_closed_form", "riccati.error.0.001"))],
    ),
    Claim(
        "C.12",
        "Influence follows from the strengths of the modes: the closed form is the derivative.",
        "The median Pearson correlation of the closed form with the exact derivative, all pairs.",
        above(0.9),
        [Row(THREE, NONE, of_figure("fig08_all_pairs", "analytic_vs_tangent.pearson_median"))],
    ),
    Claim(
        "C.13",
        "The derivative (down-weighting) approximates leaving a sample out.",
        "The median Pearson correlation of closed form and leave-one-out, all pairs. Approximates "
        "is taken as above 0.9.",
        above(0.9),
        [
            Row(
                THREE,
                NONE,
                of_figure("fig08_all_pairs", "analytic_vs_leave_one_out.pearson_median"),
            )
        ],
    ),
    Claim(
        "C.14",
        "Settings are rightly narrowed by whether they find the known learning coefficient.",
        "The best median Pearson correlation with leave-one-out among the settings that find it "
        "within 20 %.",
        above(0.5),
        [Row(f"106 of 1,296 settings, {SEED0}", "4", of_figure("fig06_sweep", "matched.best"))],
    ),
    Claim(
        "C.15",
        "The influence trajectory tells when in training an item matters most (discussion: an "
        "implicit curriculum).",
        "Dog has weight 2 in one window; what the window that a rule names gains for cat, over "
        "what the best of all windows gains. The median over 13 times of measurement at which one "
        "helps.",
        above(0.9),
        [
            Row(
                f"window of the closed form, {SEED0}",
                NONE,
                of_figure("curriculum", "named.median_share"),
            ),
            Row(
                f"trough of the derivative, {SEED0}",
                NONE,
                of_figure("curriculum", "trough.median_share"),
            ),
        ],
    ),
)

"""How the cost of a table grows: CPU seconds against items and features, drawn for the docs.

Run with ``OMP_NUM_THREADS=1 python -m tests.benchmarks.growth docs/table_growth``; it takes some
minutes, prints the table and the exponents, and writes a PNG.
"""

import sys
import time

import matplotlib
import numpy as np

import dlnflow as dln

ITEMS, FEATURES = (50, 150, 500, 1500, 5000), (4, 12, 40, 100, 200)
AT_FEATURES, AT_ITEMS = 50, 300
"""Features while items vary, items while features vary."""
TRAIN = 2
WORK = ("Run", "analytic", "tangent", "leave_one_out")
COLORS = ("#999999", "#0072B2", "#D55E00", "#009E73")


def table(n_items, n_features, groups=12, noise=0.1, seed=0):
    """Binary features of items that are noisy copies of a few prototypes."""
    rng = np.random.default_rng(seed)
    prototypes = rng.random((groups, n_features)) < 0.3
    rows = prototypes[rng.integers(groups, size=n_items)] ^ (
        rng.random((n_items, n_features)) < noise
    )
    return dln.Task(rows.T.astype(float), items=[f"item{k}" for k in range(n_items)])


def seconds(n_items, n_features):
    """CPU seconds of describing the run, and of every estimator with `TRAIN` train items."""
    started = time.process_time()
    task = table(n_items, n_features)
    run = dln.Run(task, optimizer="flow", hidden=max(16, 2 * task.modes.rank))
    steps, found = run.grid(200), [time.process_time() - started]
    for name in WORK[1:]:
        started = time.process_time()
        dln.ESTIMATORS[name](run, steps, train=run.items[:TRAIN])
        found.append(time.process_time() - started)
    return found


def exponents(sizes, costs):
    """Slope of log cost against log size over the larger half, where overhead is small."""
    k = len(sizes) // 2
    return np.polyfit(np.log(sizes[k:]), np.log(np.maximum(costs[k:], 1e-6)), 1)[0]


def main(out):
    """Measure, print and draw."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    seconds(20, 5)  # imports
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), sharey=True, layout="constrained")
    cases = (
        ("items", ITEMS, lambda n: (n, AT_FEATURES), f"{AT_FEATURES} features"),
        ("features", FEATURES, lambda f: (AT_ITEMS, f), f"{AT_ITEMS} items"),
    )
    for axis, (name, sizes, shape, fixed) in zip(axes, cases, strict=True):
        costs = np.array([seconds(*shape(size)) for size in sizes])
        print(f"{name} ({fixed})", *WORK, sep="\t")
        for size, row in zip(sizes, costs, strict=True):
            print(size, *(f"{value:.3g}" for value in row), sep="\t")
        slopes = exponents(sizes, costs)
        print("exponent", *(f"{slope:.2f}" for slope in slopes), sep="\t", flush=True)
        for work, cost, slope, color in zip(WORK, costs.T, slopes, COLORS, strict=True):
            axis.loglog(sizes, cost, "o-", color=color, label=f"{work}: exponent {slope:.1f}")
        axis.set_xlabel(f"Number of {name} ({fixed})")
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel(f"CPU time (s), {TRAIN} train items")
    figure.savefig(f"{out}.png", dpi=200)


if __name__ == "__main__":
    main(sys.argv[1])

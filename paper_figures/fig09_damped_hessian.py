"""Figure 9: influence of dog through the damped inverse Hessian, over dampings."""

from matplotlib.figure import Figure

from paper_figures import _damped, _data

HEADLINES = {
    "leave_one_out.best_pearson": "best median Pearson with leave-one-out {:.2f}",
    "leave_one_out.best_damping": "at relative damping {:g}",
    "indefinite.0.01": "indefinite at {:.0%} of checkpoints at 0.01",
    "indefinite.0.22": "{:.0%} at 0.22",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Dog on cat, sparrow and pine; where the Hessian is indefinite; agreement."""
    return _damped.draw(scale, "damped_hessian")

"""Figure 10: influence of dog through the damped Gauss-Newton matrix, over dampings."""

from matplotlib.figure import Figure

from paper_figures import _damped, _data

HEADLINES = {
    "leave_one_out.best_pearson": "best median Pearson with leave-one-out {:.2f}",
    "leave_one_out.best_damping": "at relative damping {:g}",
    "leave_one_out.pearson_at_least_damping": "at 0.01 {:+.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Dog on cat, sparrow and pine; where the Hessian is indefinite; agreement."""
    return _damped.draw(scale, "damped_gauss_newton")

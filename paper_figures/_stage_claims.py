"""What appendix A of the paper claims, and what the toy network's own stages say about it."""

from paper_figures._verdicts import Claim, Number, Row, above, around_zero, of_figure

SOURCE = "8-4-15"
LADDERS = "16 ladders"
LEVELS = ("rank 0 to 1", "rank 1 to 2", "rank 2 to 4")


def stages(name: str) -> Number:
    """Return a number of figure free_energy at paper scale."""
    return of_figure("free_energy_paper", name)


def share(kin: str) -> Number:
    """Return the part of influence between stages over its deepest trough."""
    part, whole = stages(f"{kin}.between_stages"), stages(f"{kin}.trough")
    ends = part.high / whole.low, part.low / whole.high
    return Number(part.value / whole.value, *ends)


def sided(name: str) -> Number:
    """Return the second derivative of the free energy minus the covariance, -+2 errors of it."""
    gap = stages(name).value - stages(f"{name}.covariance").value
    return within_errors(gap, stages(f"{name}.error").value)


def predicted(level: int, prior: str = "") -> Number:
    """Return the integrated over the sampled n of half a level, -+2 errors of both, minus one."""
    ratio = stages(f"integrated_over_sampled{prior}.{level}").value
    error = stages(f"integrated_over_sampled_error{prior}.{level}").value
    return within_errors(ratio - 1, error)


def coefficient(rank: int) -> Number:
    """Return the sampled learning coefficient of a stage minus the exact one, -+2 errors."""
    gap = stages(f"sampled_lambda.{rank}").value - stages(f"lambda.{rank}").value
    return within_errors(gap, stages(f"sampled_lambda_error.{rank}").value)


def within_errors(value: float, error: float) -> Number:
    """Return value -+ 2 standard errors."""
    return Number(value, value - 2 * error, value + 2 * error)


APPENDIX_A = (
    Claim(
        "A.1",
        "Bayesian influence is the second derivative of the free energy (equation 8).",
        "Second differences of the free energy in item weights, by thermodynamic integration, "
        "minus what the covariances say; influence of dog on itself is -1.1.",
        around_zero(0.1),
        [
            Row(f"dog on {query}, {SOURCE}", LADDERS, sided(f"identity.dog.{query}"))
            for query in ("dog", "cat")
        ],
    ),
    Claim(
        "A.2",
        "The loss of a phase exceeds its minimum by lambda / n (equations 6 and 10).",
        "n beta E[L] minus lambda, where the best map of a rank is the truth.",
        around_zero(3),
        [Row(f"rank {rank}, {SOURCE}", LADDERS, coefficient(rank)) for rank in (0, 1, 2, 4)],
    ),
    Claim(
        "A.3",
        "A better phase replaces a simpler one where n dL = dlambda log n.",
        "That n relative to where the posterior has learned half of the level. With their O(1) "
        "terms the free energies of these stages never cross (docs/derivations/phases.md).",
        around_zero(0.2),
        [
            Row(f"{level}, {SOURCE}", LADDERS, stages(f"crossing_over_half.{k}") - Number(1, 1, 1))
            for k, level in enumerate(LEVELS)
        ],
    ),
    Claim(
        "A.4",
        "The passage is of first order: both phases are occupied at the transition.",
        "The number of peaks of the density of the first strength where it is half learned.",
        above(1.5),
        [Row(SOURCE, LADDERS, stages("peaks_of_density.13"))],
    ),
    Claim(
        "A.5",
        "Influence peaks at the transition because phases exchange.",
        "The part of siblings' influence that comes from which levels are above half of their "
        "strength, where it is largest, over the largest influence of siblings.",
        above(0.5),
        [Row(SOURCE, LADDERS, share("sibling"))],
    ),
    Claim(
        "A.6",
        "The free energy of the data, with all its terms, says where a level is learned (equation "
        "6).",
        "The n at which half of the level is predicted to be learned, relative to where it was "
        "sampled, minus one. The prediction is an integral with an error of its own, without the "
        "sampler; the interval is two errors of both (docs/derivations/phases.md).",
        around_zero(0.05),
        [Row(f"{level}, {SOURCE}", LADDERS, predicted(k)) for k, level in enumerate(LEVELS)]
        + [
            Row(f"{level}, prior of precision 0.3", LADDERS, predicted(k, "_broad_prior"))
            for k, level in enumerate(LEVELS)
        ],
    ),
)

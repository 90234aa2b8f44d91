"""One step of every kernel against the update written by hand, and Gaussian stationary laws."""

import numpy as np
import pytest
import torch

from dlnflow.sampling import KERNELS
from dlnflow.sampling.kernels import mala, rmsprop_sgld, sgld, underdamped
from dlnflow.sampling.posterior import Evaluation, FullBatch, Posterior
from tests.sampling.targets import Fixed, Shared, exact_draws, quadratic
from tests.tolerances import ALGEBRA

H = np.diag([2.0, 0.5, 0.1])
N_BETA, GAMMA, EPS = 7.0, 1.3, 0.05


def _setup(seed=0):
    rng = np.random.default_rng(seed)
    posterior = quadratic(H, 2, n_beta=N_BETA, localization=GAMMA, center=0.3)
    theta, xi, xi2 = rng.standard_normal((3, 2, 3))
    return posterior, theta, xi, xi2


def _torch(*arrays):
    return [torch.tensor(a, dtype=torch.float64) for a in arrays]


def _grad_u(theta):
    return N_BETA * theta @ H + GAMMA * (theta - 0.3)


def _u(theta):
    return N_BETA * 0.5 * np.sum(theta * (theta @ H), -1) + 0.5 * GAMMA * np.sum(
        (theta - 0.3) ** 2, -1
    )


def _one_step(kernel, theta, noise):
    start = torch.tensor(theta, dtype=torch.float64)
    state = kernel.step(kernel.init(start), noise)
    np.testing.assert_array_equal(start, theta)  # init copies: the caller's array is untouched
    return state


def test_sgld_step():
    posterior, theta, xi, _ = _setup()
    state = _one_step(sgld.build(posterior, step_size=EPS), theta, Fixed(*_torch(xi)))
    expected = theta - EPS / 2 * _grad_u(theta) + np.sqrt(EPS) * xi
    np.testing.assert_allclose(state.theta, expected, rtol=ALGEBRA)
    np.testing.assert_allclose(state.value.loss, 0.5 * np.sum(expected * (expected @ H), -1))


def test_sgld_options_change_the_target_and_say_so():
    posterior, theta, xi, _ = _setup()
    kernel = sgld.build(posterior, step_size=EPS, noise_scale=0.5, box=0.1)
    state = _one_step(kernel, theta, Fixed(*_torch(xi)))
    free = theta - EPS / 2 * _grad_u(theta) + 0.5 * np.sqrt(EPS) * xi
    np.testing.assert_allclose(state.theta, np.clip(free, 0.2, 0.4), rtol=ALGEBRA)
    assert len(kernel.changes) == 2 and "exp(-U / 0.25)" in kernel.changes[0]
    assert sgld.build(posterior, step_size=EPS).changes == ()


@pytest.mark.parametrize("freeze_after", [None, 1, 2])
def test_rmsprop_sgld_is_algorithm_1(freeze_after):
    posterior, theta, xi, xi2 = _setup()
    b, a = 0.9, 0.05
    kernel = rmsprop_sgld.build(
        posterior, step_size=EPS, decay=b, stability=a, freeze_after=freeze_after
    )
    noise = Fixed(*_torch(xi, xi2))
    state = kernel.step(kernel.init(torch.tensor(theta)), noise)
    state = kernel.step(state, noise)
    v = np.zeros_like(theta)
    for step, z in enumerate((xi, xi2)):
        g = theta @ H  # the gradient of the mean loss: no n_beta, no localisation
        if freeze_after is None or step < freeze_after:
            v = b * v + (1 - b) * g**2
        eps_hat = EPS / (np.sqrt(v) + a)
        drift = N_BETA * g + GAMMA * (theta - 0.3)
        theta = theta - eps_hat / 2 * drift + np.sqrt(eps_hat) * z
    np.testing.assert_allclose(state.theta, theta, rtol=ALGEBRA)
    np.testing.assert_allclose(state.v, v, rtol=ALGEBRA)


def test_mala_accepts_by_the_ratio_of_densities():
    posterior, theta, xi, _ = _setup()
    eps = 0.3
    proposal = theta - eps / 2 * _grad_u(theta) + np.sqrt(eps) * xi

    def log_q(to, start):
        return -np.sum((to - start + eps / 2 * _grad_u(start)) ** 2, -1) / (2 * eps)

    log_ratio = _u(theta) - _u(proposal) + log_q(theta, proposal) - log_q(proposal, theta)
    assert np.all(log_ratio < 0)  # otherwise the test below would not see a rejection
    for shift, accepted in ((-1e-9, True), (1e-9, False)):
        uniform = torch.tensor(np.exp(log_ratio + shift))
        kernel = mala.build(posterior, step_size=eps)
        state = _one_step(kernel, theta, Fixed(*_torch(xi), uniform=uniform))
        expected = proposal if accepted else theta
        np.testing.assert_allclose(state.theta, expected, rtol=ALGEBRA)
        np.testing.assert_allclose(state.potential, _u(expected), rtol=ALGEBRA)
        np.testing.assert_allclose(state.drift, _grad_u(expected), rtol=ALGEBRA)
        np.testing.assert_allclose(
            state.value.items[:, 0], 0.5 * ((expected @ H) * expected).sum(-1)
        )
        assert state.acceptance.tolist() == [float(accepted)] * 2


def test_mala_never_accepts_nan():
    posterior, theta, _, _ = _setup()
    kernel = mala.build(posterior, step_size=EPS)
    noise = Fixed(torch.full((2, 3), torch.nan), uniform=torch.zeros(2))
    np.testing.assert_array_equal(_one_step(kernel, theta, noise).theta, theta)


@pytest.mark.parametrize("persistence", [0.7, 0.0, None])
def test_underdamped_is_baoab(persistence):
    posterior, theta, xi, xi2 = _setup()
    kernel = underdamped.build(posterior, step_size=EPS, persistence=persistence)
    c = np.exp(-2 * np.sqrt(EPS * GAMMA)) if persistence is None else persistence
    state = _one_step(kernel, theta, Fixed(*_torch(xi, xi2)))  # the first normals are v_0
    h = np.sqrt(EPS)
    v = xi - h / 2 * _grad_u(theta)
    theta = theta + h / 2 * v
    v = c * v + np.sqrt(1 - c**2) * xi2
    theta = theta + h / 2 * v
    v = v - h / 2 * _grad_u(theta)
    np.testing.assert_allclose(state.theta, theta, rtol=ALGEBRA)
    np.testing.assert_allclose(state.velocity, v, rtol=ALGEBRA, atol=ALGEBRA)


STIFF = 100.0


def _farthest(name, *, step_size, steps=3000, **options):
    """The largest coordinate that 8 chains reach on N(0, diag(1/100, 1)), and their last state."""
    kernel = KERNELS[name](
        quadratic(np.diag([STIFF, 1.0]) / 50, 8, n_beta=50.0), step_size=step_size, **options
    )
    state, farthest = kernel.init(torch.zeros(8, 2, dtype=torch.float64)), 0.0
    noise = Shared((8, 2))
    for _ in range(steps):
        state = kernel.step(state, noise)
        farthest = max(farthest, float(state.theta.abs().max()))
    return farthest, state


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [
        ("sgld", {}, 1.0),
        ("underdamped", {}, 1.0),
        ("underdamped", {"persistence": 0.0}, 1.0),
        ("underdamped", {"persistence": 0.9}, 1.0),
        ("rmsprop_sgld", {"freeze_after": 1, "decay": 0.0, "stability": 0.1}, 0.1),
    ],
)
def test_stable_below_four_and_not_beyond(name, options, scale):
    """Frozen at the checkpoint, where g = 0, eps_hat is eps / a: `scale` is a."""
    below, _ = _farthest(name, step_size=scale * 3.98 / STIFF, **options)
    beyond, _ = _farthest(name, step_size=scale * 4.02 / STIFF, **options)
    assert below < 10 and beyond > 1e5


def test_algorithm_1_swings_but_does_not_blow_up():
    eps, decay = 0.4, 0.99  # eps / a is 100 times the stable one
    farthest, state = _farthest("rmsprop_sgld", step_size=eps, decay=decay)
    longest = eps * 50.0 / (2 * np.sqrt(1 - decay))
    assert longest / 2 < farthest < 1.1 * longest
    assert 3 < float(state.step_hat[:, 0].mean()) * STIFF < 5


def test_mala_beyond_stability_rejects():
    farthest, state = _farthest("mala", step_size=400 / STIFF)
    assert farthest < 10 and 0 < float(state.acceptance.mean()) < 0.01


@pytest.mark.parametrize("name", KERNELS)
def test_a_column_of_step_sizes_is_a_batch_of_settings(name):
    """Each chain with its own eps, n_beta and localization moves as it would alone."""
    _, theta, xi, xi2 = _setup()
    values = np.array([[0.02, 3.0, 0.7], [0.05, 9.0, 1.9]])
    u = torch.tensor([0.9, 0.9])
    columns = [torch.tensor(values[:, k : k + 1]) for k in range(3)]
    joint = quadratic(H, 2, n_beta=columns[1], localization=columns[2], center=0.3)
    kernel = KERNELS[name](joint, step_size=columns[0])
    together = _one_step(kernel, theta, Fixed(*_torch(xi, xi2), uniform=u)).theta
    for k, (eps, n_beta, gamma) in enumerate(values):
        alone = quadratic(H, 1, n_beta=n_beta, localization=gamma, center=0.3)
        kernel = KERNELS[name](alone, step_size=eps)
        noise = Fixed(*_torch(xi[k : k + 1], xi2[k : k + 1]), uniform=u[:1])
        np.testing.assert_allclose(
            _one_step(kernel, theta[k : k + 1], noise).theta[0], together[k], rtol=1e-9
        )


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("step_size", [0.0, -1.0, float("nan"), float("inf")])
def test_step_sizes_must_be_positive(name, step_size):
    with pytest.raises(ValueError, match="`step_size` must be finite and > 0"):
        KERNELS[name](_setup()[0], step_size=step_size)


@pytest.mark.parametrize(("n_beta", "localization"), [(0, 1), (1, 0), (-1, 1), (1, -2)])
def test_posterior_needs_positive_temperature_and_localization(n_beta, localization):
    with pytest.raises(ValueError, match=r"must be > 0"):
        quadratic(H, 2, n_beta=n_beta, localization=localization)


@pytest.mark.parametrize(
    "options",
    [{"decay": 1.0}, {"decay": -0.1}, {"stability": 0.0}, {"freeze_after": 0}],
)
def test_rmsprop_options_are_checked(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        rmsprop_sgld.build(_setup()[0], step_size=EPS, **options)


def test_persistence_must_be_below_one():
    with pytest.raises(ValueError, match="`persistence`"):
        underdamped.build(_setup()[0], step_size=EPS, persistence=1.0)


def test_gradient_noise_is_checked():
    for options in ({"gradient_noise": -1.0}, {"gradient_noise": 2.0, "persistence": 0.5}):
        with pytest.raises(ValueError, match="`gradient_noise` must be >= 0"):
            underdamped.build(_setup()[0], step_size=EPS, **options)


@pytest.mark.parametrize(
    "options", [{"persistence": 0.0}, {"persistence": 0.7}, {"gradient_noise": 400.0}]
)
def test_noise_of_the_gradient_heats_by_the_declared_share(options):
    """Friction covers what `gradient_noise` says, up to `NOISE_SHARE`; a step too large cannot."""
    curvature, variance, chains = 10.0, 400.0, 2_000
    eps = 0.02 / curvature
    generator = torch.Generator().manual_seed(1)

    def noisy(theta):
        shake = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
        return Evaluation(theta[:, 0], curvature * theta + variance**0.5 * shake)

    center = torch.zeros(chains, 3, dtype=torch.float64)
    posterior = Posterior(FullBatch(noisy, 3), center, n_beta=1.0, localization=1e-9)
    kernel = underdamped.build(posterior, step_size=eps, **options)
    ratio, error, _ = _variance_ratio(kernel, center, curvature * np.eye(3), 1_200, 500)
    share = 0.25
    if (c := options.get("persistence")) is not None:
        share = eps * variance * (1 + c) / (4 * (1 - c))
    np.testing.assert_allclose(ratio, 1 + share, atol=0.02 + 4 * error.max())


def test_start_up_kick_is_refused():
    """At an optimum g = 0, so the first eps_hat is eps / a whatever the target's stiffness."""
    posterior = quadratic(H, 2, n_beta=N_BETA, localization=GAMMA)
    start = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="`stability` = 1e-05 makes the first step a kick"):
        rmsprop_sgld.build(posterior, step_size=1e-3, stability=1e-5).init(start)
    rmsprop_sgld.build(posterior, step_size=1e-3, stability=1e-3).init(start)


def _variance_ratio(kernel, theta, precision, steps, burn_in):
    """Variance along each eigenvector over its exact value, and the standard error."""
    values, vectors = np.linalg.eigh(precision)
    noise, state = Shared(theta.shape), kernel.init(theta)
    total = np.zeros(theta.shape)
    for k in range(burn_in + steps):
        state = kernel.step(state, noise)
        if k >= burn_in:
            total += (state.theta.numpy() @ vectors) ** 2
    per_chain = total / steps * values
    return per_chain.mean(0), per_chain.std(0) / np.sqrt(len(theta)), state


TARGETS = {
    "isotropic": 10 * np.eye(3),
    "ill-conditioned": np.diag([1.0, 10.0, 100.0]),
    "correlated": 10 * np.linalg.inv(0.9 + 0.1 * np.eye(3)),
}


@pytest.mark.parametrize("relative_step", [0.2, 1.5])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["sgld", "mala", "underdamped"])
def test_gaussian_variance_is_the_predicted_one(name, target, relative_step):
    precision = TARGETS[target]
    largest = np.linalg.eigvalsh(precision)[-1]
    eps, chains = relative_step / largest, 20_000
    kernel = KERNELS[name](quadratic(precision, chains), step_size=eps)
    # Started from the exact law; the kernel's own law differs only in stiff, fast directions.
    ratio, error, _ = _variance_ratio(kernel, exact_draws(precision, chains), precision, 150, 60)
    eigenvalues = np.linalg.eigvalsh(precision)
    predicted = 1 / (1 - eps * eigenvalues / 4) if name == "sgld" else np.ones(3)
    assert error.max() < 0.01
    assert np.abs((ratio - predicted) / error).max() < 3.5  # 54 z-scores in all, seed fixed


@pytest.mark.slow
def test_frozen_preconditioner_is_right_and_algorithm_1_is_not():
    """Full batch, L = theta^2/2, n_beta = 100: the bias of the adaptive form grows as eps -> 0."""
    chains, a = 20000, 1e-3
    precision = np.array([[100.0]])
    start = exact_draws(precision, chains)
    posterior = quadratic([[1.0]], chains, n_beta=100.0)
    free = rmsprop_sgld.build(posterior, step_size=1e-5, stability=a)
    ratio, _, _ = _variance_ratio(free, start, precision, 500, 4000)
    assert 1.4 < ratio[0] < 2.0  # the limit is (sqrt(g^2) + a) exp(-U): 1.99
    frozen = rmsprop_sgld.build(posterior, step_size=1e-5, stability=a, freeze_after=1000)
    ratio, error, state = _variance_ratio(frozen, start, precision, 1500, 4000)
    predicted = float((1 / (1 - state.step_hat * 100.0 / 4)).mean())
    assert error[0] < 0.005 and abs(ratio[0] - predicted) < 3 * error[0]

"""Closed-form trajectories against ODE solutions and against 200-digit arithmetic."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from dlnflow import flow
from tests.tolerances import ALGEBRA, CLOSED_FORM_VS_ODE, TANGENT_VS_DIFFERENCE

# (n_in, d_out, h, rank of S): wide, bottleneck, tall, square, rank deficient, one hidden unit
SHAPES = [(4, 6, 10, 4), (5, 3, 2, 3), (3, 5, 3, 2), (4, 4, 4, 4), (6, 5, 3, 2), (2, 3, 1, 2)]


def spectral_map(rng, n_in, d_out, rank):
    u = np.linalg.qr(rng.normal(size=(d_out, d_out)))[0][:, :rank]
    v = np.linalg.qr(rng.normal(size=(n_in, n_in)))[0][:, :rank]
    return (u * np.linspace(3.0, 0.7, rank)) @ v.T


def balanced_start(rng, n_in, d_out, h, scale=0.1, lam=0.0):
    """W1 W1^T = M, W2^T W2 = M + lam I with a random M of the rank both layers can have."""
    k = min(n_in, d_out, h)
    o = np.linalg.qr(rng.normal(size=(h, h)))[0]
    r1 = np.linalg.qr(rng.normal(size=(n_in, n_in)))[0]
    r2 = np.linalg.qr(rng.normal(size=(d_out, d_out)))[0]
    m = np.zeros(h)
    m[:k] = scale * rng.uniform(0.2, 1.0, size=k)
    w1, w2 = np.zeros((h, n_in)), np.zeros((d_out, h))
    w1[:k] = np.sqrt(m[:k])[:, None] * r1[:k]
    p = min(h, d_out)
    w2[:, :p] = r2[:, :p] * np.sqrt(m[:p] + lam)
    return o @ w1, w2 @ o.T


def weights_ode(w1, w2, s_yx, s_xx, times, rtol=1e-12):
    cut, shapes = w1.size, (w1.shape, w2.shape)

    def rate(_, z):
        a, b = z[:cut].reshape(shapes[0]), z[cut:].reshape(shapes[1])
        g = s_yx - b @ a @ s_xx
        return np.concatenate([(b.T @ g).ravel(), (g @ a.T).ravel()])

    start = np.concatenate([w1.ravel(), w2.ravel()])
    z = solve_ivp(
        rate, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=rtol, atol=1e-16
    ).y.T
    return z[:, :cut].reshape(-1, *shapes[0]), z[:, cut:].reshape(-1, *shapes[1])


def riccati_200_digits(w1, w2, s_yx, t):
    """Textbook formula, one evaluation from t = 0, in arithmetic where it cannot cancel."""
    with mpmath.workdps(200):
        q = mpmath.matrix(np.vstack([w1.T, w2]).tolist())
        n_in, k = w1.shape[1], w1.shape[1] + w2.shape[0]
        f = mpmath.zeros(k)
        for i, j in np.ndindex(*s_yx.shape):
            f[n_in + i, j] = f[j, n_in + i] = mpmath.mpf(float(s_yx[i, j]))
        rates, o = mpmath.eigsy(f)
        y = o.T * q
        grown, phi = mpmath.zeros(k, q.cols), mpmath.zeros(k)
        for i in range(k):
            small = abs(rates[i]) < mpmath.mpf(10) ** -150
            phi[i, i] = t if small else mpmath.expm1(2 * rates[i] * t) / (2 * rates[i])
            for j in range(q.cols):
                grown[i, j] = mpmath.exp(rates[i] * t) * y[i, j]
        middle = mpmath.inverse(mpmath.eye(q.cols) + y.T * phi * y)
        gram = o * grown * middle * grown.T * o.T
        return np.array(gram.tolist(), dtype=np.float64)


def lambda_balanced_cases():
    """W2^T W2 = W1 W1^T + lambda I needs the rank: h <= d_out for lambda > 0, h <= n_in for < 0."""
    for n_in, d_out, h, rank in SHAPES:
        yield (n_in, d_out, h, rank), 0.0
        if h <= d_out:
            yield (n_in, d_out, h, rank), 0.3
        if h <= n_in:
            yield (n_in, d_out, h, rank), -0.3


@pytest.mark.parametrize(("shape", "lam"), list(lambda_balanced_cases()))
def test_balanced_equals_the_weight_ode(shape, lam):
    n_in, d_out, h, rank = shape
    rng = np.random.default_rng(1)
    if lam >= 0:
        w1, w2 = balanced_start(rng, n_in, d_out, h, lam=lam)
    else:
        w2t, w1t = balanced_start(rng, d_out, n_in, h, lam=-lam)
        w1, w2 = w1t.T, w2t.T
    s_yx = spectral_map(rng, n_in, d_out, rank)
    times = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
    blocks = flow.balanced_gram(w1, w2, s_yx, times)
    a, b = weights_ode(w1, w2, s_yx, np.eye(n_in), times)
    assert np.abs(blocks.map - b @ a).max() < CLOSED_FORM_VS_ODE
    assert np.abs(blocks.inputs - a.swapaxes(1, 2) @ a).max() < CLOSED_FORM_VS_ODE
    assert np.abs(blocks.outputs - b @ b.swapaxes(1, 2)).max() < CLOSED_FORM_VS_ODE


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0.3, 7.0, 40.0])
def test_balanced_equals_200_digits(shape, t):
    n_in, d_out, h, rank = shape
    rng = np.random.default_rng(2)
    # scale 1e-8: a long plateau, over which rounding would be amplified
    for scale in (0.3, 1e-8):
        w1, w2 = balanced_start(rng, n_in, d_out, h, scale=scale)
        s_yx = spectral_map(rng, n_in, d_out, rank)
        exact = riccati_200_digits(w1, w2, s_yx, t)
        # the formula is evaluated with the same rounded s_yx, w1, w2: only the method differs
        blocks = flow.balanced_gram(w1, w2, s_yx, t)
        assert np.abs(blocks.map - exact[n_in:, :n_in]).max() < 1e-13
        assert np.abs(blocks.inputs - exact[:n_in, :n_in]).max() < 1e-13
        assert np.abs(blocks.outputs - exact[n_in:, n_in:]).max() < 1e-13


def test_balanced_converges_to_s_and_bottleneck_to_its_best_approximation():
    rng = np.random.default_rng(3)
    s_yx = spectral_map(rng, 5, 4, 4)
    w = flow.balanced(*balanced_start(rng, 5, 4, 6), s_yx, 1e4)
    assert np.abs(w - s_yx).max() < 1e-14
    u, s, vt = np.linalg.svd(s_yx)
    w = flow.balanced(*balanced_start(rng, 5, 4, 2), s_yx, 1e3)
    assert np.abs(w - (u[:, :2] * s[:2]) @ vt[:2]).max() < 1e-14


def test_null_modes_are_forgotten_as_one_over_t():
    rng = np.random.default_rng(8)
    s_yx = spectral_map(rng, 5, 4, 3)
    u, _, vt = np.linalg.svd(s_yx)
    a0 = np.array([0.2, 0.1, 0.05, 0.4])
    o = np.linalg.qr(rng.normal(size=(6, 4)))[0]
    w1, w2 = (o * np.sqrt(a0)) @ vt[:4], (u * np.sqrt(a0)) @ o.T
    left = flow.balanced(w1, w2, s_yx, 1e4) - s_yx
    expected = 0.4 / (1 + 2 * 0.4 * 1e4) * np.outer(u[:, 3], vt[3])
    assert np.abs(left - expected).max() < 1e-14


def test_batches_and_time_grids_are_the_single_solutions():
    rng = np.random.default_rng(4)
    starts = [balanced_start(rng, 4, 5, 7) for _ in range(3)]
    w1, w2 = (np.stack(part) for part in zip(*starts, strict=True))
    s_yx = np.stack([spectral_map(rng, 4, 5, r) for r in (2, 3, 4)])
    times = np.array([9.0, 0.0, 0.7, 0.7, 30.0])  # unsorted, repeated, one long gap
    together = flow.balanced(w1, w2, s_yx, times)
    assert together.shape == (3, 5, 5, 4)
    alone = [[flow.balanced(w1[i], w2[i], s_yx[i], t) for t in times] for i in range(3)]
    assert np.abs(together - np.array(alone)).max() < ALGEBRA * 3
    assert np.abs(together[:, 1] - w2 @ w1).max() < ALGEBRA


@settings(deadline=None, max_examples=40, print_blob=True)
@given(
    s=st.floats(0.0, 5.0),
    a0=st.floats(1e-6, 3.0),
    t=st.floats(0.0, 20.0),
)
def test_balanced_single_mode_is_the_logistic_curve(s, a0, t):
    w = flow.balanced([[np.sqrt(a0)]], [[np.sqrt(a0)]], [[s]], t)[0, 0]
    u = 2 * s * t
    phi = 1.0 if u == 0 else -np.expm1(-u) / u
    assert w == pytest.approx(a0 / (np.exp(-u) + 2 * a0 * t * phi), rel=1e-12)


@settings(deadline=None, max_examples=20, print_blob=True)
@given(seed=st.integers(0, 1000), first=st.floats(0.0, 5.0), second=st.floats(0.0, 5.0))
def test_semigroup_and_positive_gram(seed, first, second):
    rng = np.random.default_rng(seed)
    w1, w2 = balanced_start(rng, 3, 4, 2)
    s_yx = spectral_map(rng, 3, 4, 2)
    direct = flow.balanced(w1, w2, s_yx, [first, first + second])
    blocks = flow.balanced_gram(w1, w2, s_yx, first)
    whole = np.block([[blocks.inputs, blocks.map.T], [blocks.map, blocks.outputs]])
    values, vectors = np.linalg.eigh(whole)
    assert values.min() > -ALGEBRA
    root = (vectors * np.sqrt(np.maximum(values, 0)))[:, -2:]  # rank h = 2
    again = flow.balanced(root[:3].T, root[3:], s_yx, second, balance_tol=1e-6)
    assert np.abs(again - direct[1]).max() < 1e-9


def test_unbalanced_starts_are_refused_with_their_size_and_accepted_on_request():
    rng = np.random.default_rng(5)
    w1, w2 = 0.01 * rng.normal(size=(20, 4)), 0.01 * rng.normal(size=(5, 20))
    s_yx = spectral_map(rng, 4, 5, 4)
    lam, remainder = flow.imbalance(w1, w2)
    d = w2.T @ w2 - w1 @ w1.T
    assert lam == pytest.approx(np.trace(d) / 20)
    assert remainder == pytest.approx(np.linalg.norm(d - lam * np.eye(20), 2))
    with pytest.raises(ValueError, match=r"not balanced.*flow\.gram.*balance_tol=0\.01"):
        flow.balanced(w1, w2, s_yx, 1.0)
    times = np.linspace(0, 8, 9)
    near = flow.balanced(w1, w2, s_yx, times, balance_tol=0.01)
    exact = flow.gram(w1, w2, s_yx, np.eye(4), times).map
    assert 0 < np.abs(near - exact).max() < float(remainder)


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_flow_equals_the_weight_ode_for_any_start_and_inputs(shape):
    n_in, d_out, h, rank = shape
    rng = np.random.default_rng(6)
    w1, w2 = 0.3 * rng.normal(size=(h, n_in)), 0.3 * rng.normal(size=(d_out, h))
    x = rng.normal(size=(n_in, 7))
    s_xx, s_yx = x @ x.T / 7, spectral_map(rng, n_in, d_out, rank)
    times = np.array([0.0, 0.5, 3.0])
    blocks = flow.gram(w1, w2, s_yx, s_xx, times)
    a, b = weights_ode(w1, w2, s_yx, s_xx, times)
    assert np.abs(blocks.map - b @ a).max() < CLOSED_FORM_VS_ODE
    assert np.abs(blocks.inputs - a.swapaxes(1, 2) @ a).max() < CLOSED_FORM_VS_ODE
    assert np.abs(blocks.outputs - b @ b.swapaxes(1, 2)).max() < CLOSED_FORM_VS_ODE


def test_gram_tangent_is_the_derivative_and_takes_many_directions():
    rng = np.random.default_rng(7)
    w1, w2 = 0.2 * rng.normal(size=(5, 3)), 0.2 * rng.normal(size=(4, 5))
    x, y = rng.normal(size=(3, 6)), rng.normal(size=(4, 6))
    s_yx, s_xx, times = y @ x.T / 6, x @ x.T / 6, np.array([0.0, 1.0, 4.0])
    ds_yx = np.einsum("fi,gi->ifg", y, x) / 6
    ds_xx = np.einsum("fi,gi->ifg", x, x) / 6
    base, moved = flow.gram_tangent(w1, w2, (s_yx, s_xx), (ds_yx, ds_xx), times)
    assert base.map.shape == (3, 4, 3) and moved.map.shape == (6, 3, 4, 3)
    assert np.abs(base.map - flow.gram(w1, w2, s_yx, s_xx, times).map).max() < CLOSED_FORM_VS_ODE
    eps = 1e-4
    for i in range(6):
        up = flow.gram(w1, w2, s_yx + eps * ds_yx[i], s_xx + eps * ds_xx[i], times)
        down = flow.gram(w1, w2, s_yx - eps * ds_yx[i], s_xx - eps * ds_xx[i], times)
        for block in range(3):
            slope = (up[block] - down[block]) / (2 * eps)
            error = np.abs(moved[block][i] - slope).max()
            assert error < TANGENT_VS_DIFFERENCE * max(np.abs(slope).max(), 1)


# Below 1e-100 the reference solver's error estimate is 0 / 0: squares of it underflow.
layer_strengths = st.floats(-1.5, 1.5).map(lambda a: a if abs(a) > 1e-100 else 0.0)


@settings(deadline=None, max_examples=60, print_blob=True)
@given(
    s=st.one_of(st.just(0.0), st.floats(1e-3, 4.0)),
    a1=layer_strengths,
    a2=layer_strengths,
    t=st.floats(0.0, 6.0),
)
def test_unbalanced_mode_equals_its_ode(s, a1, a2, t):
    got = np.array(flow.unbalanced_mode(t, s, a1, a2))
    solution = solve_ivp(
        lambda _, z: (s - z[0] * z[1]) * z[::-1],
        (0, max(t, 1e-12)),
        [a1, a2],
        method="DOP853",
        rtol=1e-12,
        atol=1e-14,
    )
    # from a1 ~ -a2 the ODE solver's own error grows as e^{st}
    growth = np.exp(s * t) if abs(a1 + a2) < 0.1 else 1.0
    assert np.abs(got - solution.y[:, -1]).max() < CLOSED_FORM_VS_ODE * growth


def test_unbalanced_mode_special_cases():
    t = np.linspace(0, 400, 9)
    a1, a2 = flow.unbalanced_mode(t, 2.0, 0.1, 0.1)
    assert np.array_equal(a1, a2)
    assert np.allclose(a1 * a2, flow.balanced([[0.1]], [[0.1]], [[2.0]], t)[:, 0, 0], rtol=1e-12)
    stuck = flow.unbalanced_mode(t, 2.0, -0.3, 0.3)
    assert np.array_equal(stuck[0], -stuck[1]) and abs(stuck[0][-1]) < 1e-300
    assert np.all(np.array(flow.unbalanced_mode(t, 0.0, 0.0, 0.0)) == 0)
    a1, a2 = flow.unbalanced_mode(1e6, 3.0, 1e-8, 2.0, tau=2.0)
    assert a1 * a2 == pytest.approx(3.0, rel=1e-14)
    assert a2**2 - a1**2 == pytest.approx(4.0, rel=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow.balanced(np.ones((2, 3)), np.ones((4, 3)), np.ones((4, 3)), 1), "`w1`.*`w2`"),
        (lambda: flow.balanced(np.ones((2, 3)), np.ones((4, 2)), np.ones((3, 4)), 1), "`s_yx`"),
        (lambda: flow.balanced([[1.0]], [[1.0]], [[1.0]], -1.0), "`t` must be >= 0"),
        (lambda: flow.balanced([[1.0]], [[1.0]], [[1.0]], []), "`t`"),
        (lambda: flow.balanced([[1.0]], [[1.0]], [[np.nan]], 1.0), "`s_yx` must be finite"),
        (lambda: flow.balanced([1.0], [[1.0]], [[1.0]], 1.0), "`w1` must be a non-empty matrix"),
        (lambda: flow.balanced([[1.0]], [[1.0]], [[1.0]], 1.0, balance_tol=0), "`balance_tol`"),
        (lambda: flow.gram([[1.0]], [[1.0]], [[1.0]], [1.0], 1.0), "`s_xx`"),
        (lambda: flow.gram([[1.0]], [[1.0]], [[1.0]], np.eye(2), 1.0), "`s_xx`"),
        (lambda: flow.gram([[1.0]], [[1.0]], [[1.0]], [[1.0]], 1.0, rtol=-1), "`rtol`"),
        (lambda: flow.gram([[1.0]], [[1.0]], [[1.0]], [[1.0]], 1.0, step=[0.1]), "`step`"),
        (lambda: flow.gram([[1.0]], [[1.0]], [[1.0]], [[1.0]], 1.0, step=-0.1), "`step`"),
        (
            lambda: flow.gram_tangent(
                [[1.0]], [[1.0]], ([[1.0]], [[1.0]]), (np.ones((2, 1)), [[1.0]]), 1.0
            ),
            "`ds_yx`",
        ),
        (lambda: flow.unbalanced_mode(1.0, -1.0, 0.1, 0.1), "`s` must be >= 0"),
        (lambda: flow.unbalanced_mode(1.0, 1.0, "a", 0.1), "`a1` must be numeric"),
        (lambda: flow.unbalanced_mode(1.0, 1.0, 0.1, 0.1, tau=0), "`tau`"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

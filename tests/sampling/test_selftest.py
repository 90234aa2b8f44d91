"""The self-test must pass what is right and fail what is wrong."""

import numpy as np
import pytest

from dlnflow.sampling import known_targets, selftest


def test_predictions_against_the_closed_form():
    """tr(weight C) with C = A^-1 (I - A G / 4)^-1, by the stationarity of the linear chain."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 3))
    precision = root @ root.T + np.eye(3)
    steps = rng.uniform(0.01, 0.1, (1, 3))
    # C = M C M^T + G for theta' = M theta + sqrt(G) xi: solve by vectorisation
    m = np.eye(3) - 0.5 * steps[0][:, None] * precision
    c = np.linalg.solve(np.eye(9) - np.kron(m, m), np.diag(steps[0]).ravel()).reshape(3, 3)
    weight = np.diag([1.0, 2.0, 3.0])
    found = known_targets._linear_response(precision, weight, steps)
    np.testing.assert_allclose(found, np.trace(weight @ c), rtol=1e-9)


def test_quartic_sgld_law_tends_to_the_exact_one():
    exact = 2 * 0.6759782400671556 / 2  # 2 Gamma(3/4) / Gamma(1/4)
    errors = [known_targets._quartic_sgld_variance(eps) / exact - 1 for eps in (0.02, 0.04)]
    assert 0 < errors[0] < 0.01
    assert errors[1] / errors[0] == pytest.approx(2, rel=0.15)  # first order in eps


def test_a_wrong_kernel_is_called_wrong(monkeypatch):
    """An option that changes the target must be found out."""
    monkeypatch.setitem(selftest.CASES, "sgld", ("sgld", {"noise_scale": 1.2}))
    table = selftest.selftest(kernels=["sgld"], chains=512)
    assert selftest.verdicts(table) == {"sgld": "wrong"}


def test_unknown_kernel():
    with pytest.raises(ValueError, match="Did you mean 'mala'"):
        selftest.selftest(kernels=["malla"])


@pytest.mark.parametrize("seed", [-1, 2**63, 10**23, "a", None])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="`seed`"):
        selftest.selftest(seed=seed)


def test_small_selftest_has_every_column_and_prints(capsys, monkeypatch):
    table = selftest.selftest(kernels=["mala", "rmsprop_sgld"], chains=512)
    assert selftest.verdicts(table) == {"mala": "correct", "rmsprop_sgld": "biased"}
    assert table[table.kernel == "mala"].acceptance.between(0.5, 1).all()
    monkeypatch.setenv("COLUMNS", "80")
    selftest.show(table)
    printed = capsys.readouterr().out
    assert "rmsprop_sgld: biased" in printed and "mala: correct" in printed
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("±" in line for line in lines) == len(table)  # no row is wrapped or cut
    assert "…" not in printed and "ill-conditioned" in printed and "6-3-6, rank 3" in printed
    assert printed.count("kept") == 2  # in the explanation, and for the kernel that rejects


@pytest.mark.slow
def test_full_selftest():
    """Corrected kernels pass; Algorithm 1 is shown as it is."""
    table = selftest.selftest()
    assert selftest.verdicts(table) == {
        "sgld": "correct",
        "rmsprop_sgld": "biased",
        "rmsprop_sgld, frozen": "correct",
        "mala": "correct",
        "underdamped": "correct",
    }
    gaussian = table.target.isin(["isotropic", "ill-conditioned", "correlated"])
    right = table.kernel != "rmsprop_sgld"
    assert table[gaussian & right].z.abs().max() <= 3
    assert table[gaussian & right].standard_error.max() <= 0.01

"""The batched program: gradients, independence of the batch, bad input, learning coefficients."""

import numpy as np
import pytest
import torch

import dlnflow as dln
from dlnflow import sampling
from dlnflow.sampling import Settings, linear_run
from dlnflow.sampling.evaluators.linear import LinearEvaluator, pack
from dlnflow.theory.rlct import learning_coefficient
from dlnflow.traces import llc
from tests.tolerances import ALGEBRA
from tests.traces.samples import autoregressive, traces


def _random(one_hot, seed=0):
    rng = np.random.default_rng(seed)
    y, x = rng.standard_normal((5, 4)), None if one_hot else rng.standard_normal((3, 4))
    w1 = rng.standard_normal((3, 6, 4 if one_hot else 3))
    return y, x, w1, rng.standard_normal((3, 5, 6)), rng.uniform(0.2, 2, 4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("one_hot", [True, False])
def test_gradients_by_hand_are_those_of_autograd(one_hot, weighted):
    y, x, w1, w2, w = (None if a is None else torch.tensor(a) for a in _random(one_hot))
    w1.requires_grad_(), w2.requires_grad_()
    inputs = torch.eye(4, dtype=torch.float64) if x is None else x
    items = 0.5 * (w2 @ w1 @ inputs - y).square().sum(1)
    loss = (items * (w if weighted else 1)).mean(1)
    loss.sum().backward()
    found = LinearEvaluator(x, y, 6, w if weighted else None)(pack(w1, w2).detach())
    np.testing.assert_allclose(found.items, items.detach(), rtol=ALGEBRA)
    np.testing.assert_allclose(found.loss, loss.detach(), rtol=ALGEBRA)
    expected = pack(w1.grad, w2.grad)
    np.testing.assert_allclose(found.gradient, expected, rtol=ALGEBRA, atol=1e-13)


@pytest.fixture(scope="module")
def run():
    return dln.Run(dln.semantic_hierarchy(3), hidden=6, init_std=0.05)


SHORT = {"draws": 20, "burn_in": 3, "chains": 2}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["sgld", "mala", "underdamped"])
def test_a_chain_does_not_depend_on_its_batch(run, kernel, dtype, monkeypatch):
    steps = [0, 100, run.n_steps]
    options = {"kernel": kernel, "dtype": dtype, **SHORT}
    options |= sampling.suggest(run, kernel=kernel) | {"burn_in": 3}
    whole = sampling.trace_run(run, steps, **options)
    alone = sampling.trace_run(run, [100], **options)
    np.testing.assert_array_equal(whole.sel(time=[100]).values, alone.values)
    more = sampling.trace_run(run, [100], **options | {"chains": 5})
    np.testing.assert_array_equal(more.values[:, :2], alone.values)
    monkeypatch.setattr(linear_run, "SLAB_BYTES", 1)  # one chain at a time
    single = sampling.trace_run(run, steps, **options)
    np.testing.assert_allclose(
        single.values, whole.values, rtol=1e-5 if dtype == "float32" else 1e-12
    )


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_defaults_do_not_depend_on_the_other_checkpoints(run, optimizer):
    """A converged checkpoint alone fits the task, so its own curvature sets no localization."""
    run = dln.Run(run.task, hidden=6, init_std=0.05, n_steps=4000, optimizer=optimizer)
    alone = dln.influence.bif(run, [4000], draws=200)
    other = dln.influence.bif(run, [10, 200, 4000], draws=200)
    np.testing.assert_array_equal(other.sel(time=[4000]).values, alone.values)
    assert alone.attrs["localization"] == sampling.suggest(run)["localization"]
    assert set(alone.verdict.values) <= {"mixed", "short"}


def test_burn_in_and_thinning_are_steps_of_the_same_chain(run):
    options = sampling.suggest(run) | {"chains": 2, "seed": 5}
    full = sampling.trace_run(run, [50], **options | {"burn_in": 0, "draws": 40}).values
    late = sampling.trace_run(run, [50], **options | {"burn_in": 10, "draws": 10, "thin": 3}).values
    np.testing.assert_array_equal(late, full[:, :, 12:40:3])
    other = sampling.trace_run(run, [50], **options | {"burn_in": 0, "draws": 40, "seed": 6})
    assert np.abs(other.values - full).min() > 0


def test_traces_say_what_was_sampled(run):
    found = sampling.trace_run(run, [0, 50], kernel="mala", **SHORT)
    assert found.dims == ("time", "chain", "draw", "item") and found.shape == (2, 2, 20, 4)
    assert found.attrs["kernel"] == "mala" and found.attrs["n_train"] == 4
    assert found.attrs["n_parameters"] == 6 * (4 + 7)
    assert 0.5 < float(found.acceptance.mean()) <= 1
    np.testing.assert_allclose(found.checkpoint_loss, run.train([0, 50]).loss, rtol=1e-6)


def test_mala_that_rejects_everything_is_not_mixed(run):
    options = sampling.suggest(run, [300], kernel="mala") | {"kernel": "mala", "chains": 2}
    good = dln.influence.bif(run, [300], **options | {"burn_in": 3, "draws": 50})
    assert 0.5 < good.acceptance.item() <= 1
    options["step_size"] *= 1000
    stuck = dln.influence.bif(run, [300], **options | {"burn_in": 3, "draws": 50})
    assert stuck.acceptance.item() == 0 and stuck.verdict.item() == "not mixed"


@pytest.mark.parametrize("data", [dln.semantic_hierarchy, dln.living_things])
def test_suggested_settings_mix_on_every_built_in_task(data):
    run = dln.Run(data(), hidden=50, init_std=1e-3)
    steps = np.linspace(0, run.n_steps, 6).astype(int)
    found = dln.influence.bif(run, steps)
    assert set(found.verdict.values) == {"mixed"}, found.r_hat.values


def test_step_beyond_stability_is_refused_and_the_message_helps(run):
    with pytest.raises(ValueError, match=r"beyond stability.*Use at most"):
        sampling.trace_run(run, [run.n_steps], kernel="sgld", step_size=1.0, **SHORT)


def test_a_kick_is_refused_in_the_toy(run):
    with pytest.raises(ValueError, match="`stability`"):
        sampling.trace_run(
            run,
            [run.n_steps],
            kernel="rmsprop_sgld",
            step_size=1e-2,
            kernel_options={"stability": 1e-8},
            **SHORT,
        )


def test_float32_that_resolves_no_move_is_warned_about(run):
    """At 1e14 covariances are twice too large with the verdict "mixed"."""
    with pytest.warns(UserWarning, match="`dtype` 'float32' is too coarse"):
        sampling.trace_run(run, [300], n_beta=1e14, **SHORT)
    sampling.trace_run(run, [300], n_beta=1e14, dtype="float64", **SHORT)
    with pytest.raises(ValueError, match="too coarse for 'mala'"):
        sampling.trace_run(run, [300], n_beta=1e10, kernel="mala", **SHORT)


@pytest.mark.parametrize("options", [{"noise_scale": 3.0}, {"box": 0.01}])
def test_options_that_change_the_target_are_named(run, options):
    """Covariances come out nine times too large, and the chains mix all the same."""
    with pytest.warns(UserWarning, match="not from the localised posterior"):
        found = dln.influence.bif(run, [300], kernel="sgld", kernel_options=options, **SHORT)
    assert next(iter(options)) in found.attrs["target_changed"]
    plain = sampling.trace_run(run, [300], kernel="sgld", **SHORT)
    assert "target_changed" not in plain.attrs


def test_relative_step_is_step_times_the_largest_curvature(run):
    """The exact Hessian at the last draw, by autograd, times the step."""
    options = sampling.suggest(run, kernel="sgld") | {"kernel": "sgld", "dtype": "float64"}
    options |= {"burn_in": 0, "draws": 4, "chains": 2}
    found = sampling.trace_run(run, [0, run.n_steps], **options)
    trained = run.train([0, run.n_steps])
    for t in range(2):

        def loss(theta):
            w1t, w2 = theta[:24].view(4, 6), theta[24:].view(7, 6)
            return 0.5 * ((w2 @ w1t.mT - torch.tensor(run.task.y)) ** 2).sum() / 4

        center = pack(torch.tensor(trained.w1[t]), torch.tensor(trained.w2[t]))
        hessian = torch.autograd.functional.hessian(loss, center)
        largest = float(torch.linalg.eigvalsh(hessian).abs().max())
        expected = options["step_size"] * (options["n_beta"] * largest + options["localization"])
        np.testing.assert_allclose(found.relative_step[t], expected, rtol=0.15)
    alone = sampling.trace_run(run, [run.n_steps], **options)
    np.testing.assert_array_equal(alone.relative_step[0], found.relative_step[1])
    assert "relative_step" not in sampling.trace_run(run, [0], **SHORT).coords


def test_a_step_near_the_stability_limit_is_warned_about(run):
    """Chains agree on variances several times too large; no verdict can see it."""
    settings = sampling.suggest(run, kernel="sgld") | {"kernel": "sgld", **SHORT, "burn_in": 200}
    settings["step_size"] *= 12
    with pytest.warns(UserWarning, match="too large, whatever the verdict says. For 5 %"):
        found = dln.influence.bif(run, [run.n_steps], **settings)
    assert 0.8 < found.relative_step.item() < 4


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("freeze_after", [None, 300])
def test_a_preconditioner_with_too_large_steps_is_warned_about(freeze_after, warm_start):
    """Learning coefficient 27 (frozen) or 30 in place of 13.5, with the verdict "mixed"."""
    task, w1, w2 = global_minimum(6, 3, 6, 3)
    options = {"stability": 1e-6, "freeze_after": freeze_after, "warm_start": warm_start}
    settings = Settings(6e5, 1.0, 1e-8, chains=8, draws=300, burn_in=600, kernel_options=options)
    with pytest.warns(UserWarning, match="`step_size` = 1e-08 is too large"):
        linear_run.sample(w1, w2, task, time=[0], kernel="rmsprop_sgld", settings=settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_beta": 0}, "`n_beta`"),
        ({"seed": "a"}, "`seed`"),
        ({"kernel_options": {"persistence": "a"}}, "`persistence`"),
        ({"kernel": "mala", "kernel_options": {"foo": 1}}, "its options: none"),
        ({"seed": None}, "`seed`"),
        ({"kernel_options": 3}, "`kernel_options` must be a mapping"),
        ({"kernel_options": {"step_size": 1e-9}}, "`step_size` is a setting of its own"),
        ({"kernel_options": {"noise_scale": 0}}, "`noise_scale`"),
        ({"kernel_options": {"noise_scale": float("nan")}}, "`noise_scale`"),
        ({"kernel_options": {"box": -1.0}}, "`box`"),
        ({"kernel_options": {"freeze_after": 4}}, "`freeze_after` = 4 must not exceed"),
        ({"kernel_options": {"persistance": 0.5}}, "Did you mean 'persistence'"),
        ({"n_beta": -1.0}, "`n_beta`"),
        ({"localization": 0}, "`localization`"),
        ({"step_size": float("nan")}, "`step_size`"),
        ({"chains": 0}, "`chains`"),
        ({"draws": 2}, "`draws`"),
        ({"burn_in": -1}, "`burn_in`"),
        ({"thin": 0}, "`thin`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 0.5}, "`seed` must be a whole number"),
        ({"burn_in": 2.5}, "`burn_in` must be a whole number"),
        ({"options": {}}, "unknown sampling option `options`"),
        ({"dtype": "float16"}, "`dtype`"),
        ({"kernel": "sgdl"}, "Did you mean 'sgld'"),
        ({"kernel": "sgld", "kernel_options": {"decay": 1}}, "does not take"),
        ({"localisation": 1.0}, "Did you mean 'localization'"),
        ({"kernel": "rmsprop_sgld"}, "needs a `step_size`"),
    ],
)
def test_bad_settings(run, options, message):
    with pytest.raises(ValueError, match=message):
        sampling.trace_run(run, [0], **SHORT | options)


def test_whole_floats_count_as_integers(run):
    options = {"chains": 2.0, "draws": 6.0, "burn_in": 2.0, "thin": 1.0}
    found = sampling.trace_run(run, [0], **options)
    plain = sampling.trace_run(run, [0], **{k: int(v) for k, v in options.items()})
    assert found.identical(plain)


def test_three_layers_are_refused():
    run = dln.Run(dln.semantic_hierarchy(3), depth=3)
    with pytest.raises(ValueError, match="depth 3"):
        sampling.trace_run(run, [0])


def test_a_checkpoint_that_is_not_finite_is_refused(run):
    w1, w2 = np.full((1, 6, 4), np.nan), np.ones((1, 7, 6))
    with pytest.raises(ValueError, match="checkpoint 7 are not finite"):
        linear_run.sample(w1, w2, run.task, time=[7], kernel="sgld", settings=Settings(1, 1, 1e-3))


def test_chains_that_blow_up_give_a_verdict_not_a_silent_nan(run):
    """Unstable only away from the checkpoint, so no check at the start can see it."""
    w1, w2 = run.train([run.n_steps]).w1, run.train([run.n_steps]).w2
    settings = Settings(100.0, 0.01, 0.05, draws=200)
    found = linear_run.sample(w1, w2, run.task, time=[9], kernel="sgld", settings=settings)
    inf = dln.traces.influence(found)
    assert inf.verdict.item() == "diverged" and inf.n_diverged.item() == 4
    assert np.isnan(inf.values).all()


def global_minimum(m, h, n, r, seed=0):
    """A task of rank r and balanced weights that fit it, unused hidden units at zero."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :r]
    v = np.linalg.qr(rng.standard_normal((m, m)))[0][:, :r]
    s = np.linspace(2, 1, r)
    w1, w2 = np.zeros((1, h, m)), np.zeros((1, n, h))
    w1[0, :r], w2[0, :, :r] = np.sqrt(s)[:, None] * v.T, u * np.sqrt(s)
    return dln.Task(w2[0] @ w1[0]), w1, w2


NETWORKS = [(6, 1, 6, 1), (6, 2, 6, 2), (6, 3, 6, 3), (6, 4, 6, 4), (8, 50, 15, 8), (5, 2, 3, 2)]
"""Inputs, hidden, outputs, rank: lambda depends on the rank except in the wide net (60)."""


def sampled_llc(
    network, kernel, relative_step, *, chains=16, draws=1000, gamma=100.0, thin=1, **options
):
    """LLC at kappa = n_beta / N = 1e5; localization 100 gives the exact value to 0.2 %."""
    m, h, n, r = network
    task, w1, w2 = global_minimum(m, h, n, r)
    kappa = 1e5
    width = (np.sqrt(h) + np.sqrt(max(m, n))) / np.sqrt(gamma)
    step = relative_step / (2 * kappa * (np.sqrt(2) + width) ** 2)
    settings = Settings(
        kappa * m,
        gamma,
        step,
        chains=chains,
        draws=draws,
        burn_in=600,
        thin=thin,
        kernel_options=options,
    )
    return llc(linear_run.sample(w1, w2, task, time=[0], kernel=kernel, settings=settings)).isel(
        time=0
    )


@pytest.mark.parametrize("kernel", ["mala", "underdamped"])
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_llc_is_aoyagis_at_global_minima(network, kernel):
    m, h, n, r = network
    expected = learning_coefficient((m, h, n), r).coefficient
    found = sampled_llc(network, kernel, 0.4 if kernel == "mala" else 1.0)
    assert found.verdict.item() == "mixed"
    assert found.standard_error < 0.03 * expected
    assert abs(found.llc - expected) < 3 * found.standard_error + 0.003 * expected


def localised_coefficient(m, h, n, r, kappa, gamma):
    """E[n_beta L] at a minimum with h - r = 2 spare hidden units, by quadrature.

    The spare units are A (2, p), B (q, 2), p = m - r, q = n - r, with potential
    (kappa/2) |B A|^2 + (gamma/2) (|A|^2 + |B|^2). B is Gaussian given A; what is left are the two
    eigenvalues x of A A^T. The r (m + n - r) other directions are regular, 1/2 each.
    """
    assert h - r == 2
    p, q, z = m - r, n - r, np.linspace(-40, 8, 1501)
    x = np.exp(z) / gamma
    log_weight = z + (p - 3) / 2 * z - gamma * x / 2 - q / 2 * np.log(kappa * x + gamma)
    joint = np.exp(log_weight[:, None] + log_weight - 2 * log_weight.max())
    joint *= gamma * abs(x[:, None] - x)
    loss = 0.5 * q * kappa * x / (kappa * x + gamma)
    return 0.5 * r * (m + n - r) + (joint * (loss[:, None] + loss)).sum() / joint.sum()


def test_localised_coefficient_tends_to_aoyagis():
    values = [localised_coefficient(6, 3, 6, 1, 1e5, gamma) for gamma in (100, 10, 1, 1e-3)]
    assert np.all(np.diff(values) > 0)
    exact = learning_coefficient((6, 3, 6), 1).coefficient
    assert values[-1] == pytest.approx(exact, abs=1e-3) and values[0] < exact - 0.7


@pytest.mark.parametrize("gamma", [1000.0, 100.0])
def test_llc_at_a_singular_minimum_is_what_the_localisation_leaves(gamma):
    """6-3-6 at rank 1 is short of Aoyagi's 10 because of gamma, not because of the sampler."""
    found = sampled_llc((6, 3, 6, 1), "underdamped", 1.0, gamma=gamma, draws=2000, thin=3)
    expected = localised_coefficient(6, 3, 6, 1, 1e5, gamma)
    assert found.verdict.item() == "mixed" and found.standard_error < 0.06
    assert abs(found.llc - expected) < 3 * found.standard_error


def test_weights_are_checked_recorded_and_refused_by_llc(run):
    found = sampling.trace_run(run, [300], weights=[2, 1, 1, 1], **SHORT)
    assert found.weight.values.tolist() == [2, 1, 1, 1]
    with pytest.raises(ValueError, match="item weights other than 1"):
        llc(found)
    assert np.isfinite(llc(sampling.trace_run(run, [300], weights=np.ones(4), **SHORT)).llc)
    for weights in ([1, 1], [-1, 1, 1, 1], [np.nan, 1, 1, 1], "abcd"):
        with pytest.raises(ValueError, match="`weights`"):
            sampling.trace_run(run, [300], weights=weights, **SHORT)


def test_llc_needs_every_training_item():
    z = traces(5 + autoregressive(4, 100, 3, 0.0)[None], n_train=4)
    with pytest.raises(ValueError, match="3 of 4 training items"):
        llc(z)


def test_llc_of_known_traces():
    """A chi-square excess: n_beta (L - L_0) with mean 2.5 and one diverged chain."""
    rng = np.random.default_rng(0)
    excess = rng.chisquare(5, (1, 4, 4000, 1)) / 2 / 100.0
    excess[0, 1, 5] = np.nan
    found = llc(traces(1 + excess))
    assert found.n_diverged.item() == 1 and found.verdict.item() == "mixed"
    assert abs(found.llc.item() - 2.5) < 3 * found.standard_error.item()
    assert found.standard_error.item() == pytest.approx(np.sqrt(2.5 / 12000), rel=0.1)

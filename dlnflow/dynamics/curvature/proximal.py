"""The proximal point of a checkpoint: argmin L(theta) + (lambda/2) |theta - theta_0|^2.

Where it is stationary, theta = lambda (lambda - T(G))^-1 theta_0 with G = S_yx - W S at the point
itself. So G is the only unknown, and it maximises the strictly concave dual

    d(G) = lambda/2 |theta_0|^2 - lambda^2/2 theta_0^T (lambda - T(G))^-1 theta_0
           - 1/2 tr (S_yx - G) S^-1 (S_yx - G)^T               on |G| < lambda.

Hence there is at most one such point; the Hessian plus lambda is positive definite there, and by
weak duality it is the global minimum. Only a hidden layer too narrow for the modes that are
unstable at lambda has none; then the minimum is found by descent from the checkpoint.
docs/derivations/damped.md has the argument.
"""

from dataclasses import replace

import numpy as np
from scipy import linalg
from scipy.optimize import minimize

from dlnflow._support import FloatArray
from dlnflow.dynamics.curvature import resolvent
from dlnflow.dynamics.curvature.networks import Networks
from dlnflow.dynamics.curvature.resolvent import Frame

MAX_NEWTON = 60
MAX_HALVINGS = 30
CLOSE = 1e-7
"""Residual of G = S_yx - W S, relative to S_yx, from which Newton in the weights takes over."""
POLISH = 3
STATIONARY_RTOL = 1e-10
"""Required gradient, relative to |S_yx| |theta|,"""
ROUNDING = 1e-14
"""and what a point that moved hardly adds to it by rounding, relative to lambda |theta|."""
DAMPINGS = (1e-13, 1e100)
"""Range of lambda relative to |S_yx|: below it rounding decides, beyond it squares overflow."""
START = 0.9
"""The first G has at most this norm, in units of lambda: inside the domain."""
OVERSHOOT = 0.5
"""A step is halved while the slope at its end is below minus this times that at its start."""


def proximal_points(points: Networks, lam: FloatArray) -> Networks:
    """Move every checkpoint to its proximal point.

    Parameters
    ----------
    points : Networks
    lam : array, shape (T,)
        lambda > 0 per checkpoint.

    Returns
    -------
    Networks

    Raises
    ------
    ValueError
        If a checkpoint has no isolated proximal point: its weights have no (or hardly any)
        component along a direction that is unstable at this lambda, as at the saddle theta_0 = 0;
        or if lambda is beyond `DAMPINGS`.
    """
    _check_range(points, lam)
    w1, w2 = np.empty_like(points.w1), np.empty_like(points.w2)
    for part in resolvent.chunks(points):
        here, some = points.at(part), lam[part]
        w1[part], w2[part], error = _solve(here, some)
        for time in np.flatnonzero(error > CLOSE):
            at = part.start + time
            w1[at], w2[at] = _descend(here.at([time]), some[time])
        for _ in range(POLISH):
            change = _newton(replace(here, w1=w1[part], w2=w2[part]), here, some)
            w1[part] += change[0]
            w2[part] += change[1]
    centres = replace(points, w1=w1, w2=w2)
    _verify(centres, points, lam)
    return centres


def _check_range(points: Networks, lam: FloatArray) -> None:
    smallest, largest = (
        np.linalg.norm(points.y @ points.x.T, 2) / points.n_items * np.array(DAMPINGS)
    )
    for bad, bound, way in (
        (lam < smallest, f"below {smallest:.2g}", "larger"),
        (lam > largest, f"above {largest:.2g}", "smaller"),
    ):
        if np.any(bad):
            raise ValueError(
                f"damping (localization / n_beta) {lam[bad][0]:.4g} is {bound}, where the proximal "
                f"point is lost in rounding. Use a {way} one."
            )


def _solve(points: Networks, lam: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Maximise the dual at all checkpoints at once; weights and final error."""
    target = points.y @ points.x.T / points.n_items
    g, size = points.correlation, np.linalg.norm(target)
    norm = np.maximum(np.linalg.norm(g, 2, axis=(1, 2)), np.finfo(float).tiny)
    g = g * np.minimum(1.0, START * lam / norm)[:, None, None]
    w1, w2, error = np.empty_like(points.w1), np.empty_like(points.w2), np.full(len(lam), np.inf)
    todo = np.arange(len(lam))
    for _ in range(MAX_NEWTON):
        here, mu = points.at(todo), lam[todo]
        basis = resolvent.frame(here, g)
        w1[todo], w2[todo] = _weights(basis, mu)
        slope = target - g - w2[todo] @ w1[todo] * points.input_scale**2  # of the dual, times S
        error[todo] = np.linalg.norm(slope, axis=(1, 2)) / size
        going = error[todo] > CLOSE
        if not np.any(going):  # none is left
            break
        step = _dual_newton(basis, slope, mu)
        todo, here, mu = todo[going], here.at(going), mu[going]
        g, step, slope = g[going], step[going], slope[going]
        length = _step_length(here, target, (g, step, slope), mu)
        moving = length > 0.5**MAX_HALVINGS  # the others press against |G| = lambda
        todo, g = todo[moving], (g + length[:, None, None] * step)[moving]
    return w1, w2, error


def _weights(basis: Frame, lam: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Theta = lambda (lambda - T(G))^-1 theta_0, back in the bases of the checkpoints."""
    p, q = resolvent.apply_coupling_inverse(basis.sigma, lam, basis.w1, basis.w2)
    scale = lam[:, None, None]
    return scale * (p @ basis.v.mT), scale * (basis.u @ q)


def _dual_newton(basis: Frame, slope: FloatArray, lam: FloatArray) -> FloatArray:
    """Solve dG + K(dG) S = slope: the matrix of the damped Hessian at theta(G)."""
    w1, w2 = _weights(basis, lam)
    matrix = resolvent.kernel(basis._replace(w1=w1 @ basis.v, w2=basis.u.mT @ w2), lam)
    np.einsum("taa->ta", matrix)[:] += 1
    # root is symmetric, and slope = f root for the symmetric form of the system.
    f = np.linalg.solve(basis.root, (basis.u.mT @ slope @ basis.v).mT).mT
    z = np.linalg.solve(matrix, f.reshape(len(f), -1, 1)).reshape(f.shape)
    return basis.u @ (z @ basis.root) @ basis.v.mT


def _step_length(
    points: Networks,
    target: FloatArray,
    line: tuple[FloatArray, FloatArray, FloatArray],
    lam: FloatArray,
) -> FloatArray:
    """Largest power of 1/2 that stays in the domain and does not overshoot the maximum much.

    The slope along a line decides, not the value of the dual: it has no cancellation near the end.
    """
    g, step, slope = line
    weighted = step / points.input_scale**2
    rising = np.sum(weighted * slope, axis=(1, 2))
    length = np.ones(len(lam))
    for _ in range(MAX_HALVINGS):
        trial = g + length[:, None, None] * step
        inside = np.linalg.norm(trial, 2, axis=(1, 2)) < lam
        safe = np.where(inside[:, None, None], trial, g)
        w1, w2 = _weights(resolvent.frame(points, safe), lam)
        end = np.sum(weighted * (target - safe - w2 @ w1 * points.input_scale**2), axis=(1, 2))
        bad = ~inside | (end < -OVERSHOOT * rising)
        if not np.any(bad):
            break
        length = np.where(bad, 0.5 * length, length)
    return length


def _newton(points: Networks, origin: Networks, lam: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Step to a zero of the gradient in the weights, -(H + lambda)^-1 gradient.

    G rounds to eps |G|, which its distance from lambda amplifies; the gradient does not.
    """
    basis = resolvent.frame(points)
    matrix = resolvent.kernel(basis, lam)
    np.einsum("taa->ta", matrix)[:] += 1
    p, q = _gradient(points, origin, lam)
    changes = p @ basis.v, basis.u.mT @ q
    p, q = resolvent.inverse_product(
        basis, lam, lambda f: np.linalg.solve(matrix, f[..., None])[..., 0], changes
    )
    return -p @ basis.v.mT, -basis.u @ q


def _gradient(points: Networks, origin: Networks, lam: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradient of L + (lambda/2) |theta - theta_0|^2 with respect to W1 and W2."""
    g, scale = points.correlation, lam[:, None, None]
    return (
        scale * (points.w1 - origin.w1) - points.w2.mT @ g,
        scale * (points.w2 - origin.w2) - g @ points.w1.mT,
    )


def _descend(origin: Networks, lam: float) -> tuple[FloatArray, FloatArray]:
    """Minimise in the weights, from the checkpoint downhill (a trust-region method)."""
    size, strength = origin.w1.size, np.array([lam])
    start = np.concatenate([origin.w1.ravel(), origin.w2.ravel()])

    def at(theta: FloatArray) -> Networks:
        w1, w2 = theta[:size].reshape(origin.w1.shape), theta[size:].reshape(origin.w2.shape)
        return replace(origin, w1=w1, w2=w2)

    def value(theta: FloatArray) -> tuple[float, FloatArray]:
        here = at(theta)
        loss = 0.5 * np.sum(here.residual**2) / here.n_items
        gradient = np.concatenate([g.ravel() for g in _gradient(here, origin, strength)])
        return loss + 0.5 * lam * np.sum((theta - start) ** 2), gradient

    def hessian(theta: FloatArray) -> FloatArray:
        return at(theta).hessian(0) + lam * np.eye(len(theta))

    options = {"gtol": CLOSE * lam * max(np.linalg.norm(start), CLOSE)}
    found = minimize(value, start, jac=True, hess=hessian, method="trust-exact", options=options)
    end = at(found.x)
    return end.w1[0], end.w2[0]


def _verify(centres: Networks, origin: Networks, lam: FloatArray) -> None:
    """Raise unless every centre is stationary and the Hessian plus lambda positive definite."""
    target = np.linalg.norm(origin.y @ origin.x.T) / origin.n_items
    slope = np.sqrt(sum(np.sum(g**2, axis=(1, 2)) for g in _gradient(centres, origin, lam)))
    size = np.sqrt(sum(np.sum(w**2, axis=(1, 2)) for w in (centres.w1, centres.w2)))
    good = slope <= (STATIONARY_RTOL * target + ROUNDING * lam) * size
    inside = np.linalg.norm(centres.correlation, 2, axis=(1, 2)) < lam
    for time in np.flatnonzero(good & ~inside):
        # With spare hidden directions |G| < lambda is also necessary.
        good[time] = not centres.spare and linalg.eigvalsh(centres.hessian(time))[0] > -lam[time]
    if not np.all(good):
        bad = int(np.argmin(good))
        raise ValueError(
            f"checkpoint number {bad} (from 0) has no isolated proximal point at damping "
            f"{lam[bad]:.4g}: its weights have no or hardly any component along a direction "
            "whose negative curvature exceeds the damping. Use a larger damping."
        )

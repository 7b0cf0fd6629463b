"""Langevin dynamics against published forms, matrix exponentials and exact arithmetic."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from truth import close, covariance, normalised, tensor, times_of

from diffwave_sde.sde import CLD


def dockhorn(b: torch.Tensor, mass: float, gamma: float, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Critical damping, as a repeated root: with Γ = 2√M, Φ = e^(-kb) [[1 + kb, b/M], [-b, 1 - kb]], k = 1/√M.

    Published in Dockhorn et al. 2022, appendix B.1. Q by integrating 2Γ Φ e₂ e₂ᵀ Φᵀ term by term:
    ∫ τⁿ e^(-2kτ) from 0 to b is elementary.
    """
    k, e = 1 / math.sqrt(mass), (-b / math.sqrt(mass)).exp()
    phi = torch.stack((e * (1 + k * b), e * b / mass, -e * b, e * (1 - k * b)), -1).unflatten(-1, (2, 2))
    a = 2 * k
    I0 = (1 - (-a * b).exp()) / a
    I1 = (1 - (-a * b).exp() * (1 + a * b)) / a**2
    I2 = (2 - (-a * b).exp() * (2 + 2 * a * b + (a * b) ** 2)) / a**3
    d = 4 / k  # 2Γ = 4√M
    xx, xv, vv = d * I2 / mass**2, d * (I1 - k * I2) / mass, d * (I0 - 2 * k * I1 + k**2 * I2)
    Q = torch.stack((xx, xv, xv, vv), -1).unflatten(-1, (2, 2))
    return phi, phi @ torch.diag(tensor(epsilon, gamma * mass)) @ phi.mT + Q


@pytest.mark.parametrize("mass", [0.25, 1.0, 0.04])
def test_critically_damped_langevin_is_the_published_closed_form(mass):
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    phi, cov = dockhorn(4 * t, mass, 0.04, 1e-12)
    kernel = CLD(mass=mass).kernel(t)
    close(kernel.M, phi[..., 0], 1e-12, 1e-15)
    close(normalised(covariance(kernel), cov), normalised(cov, cov), 0, 1e-12)


# A ladder of damping, from Γ = 0.1 Γ_critical to ten times it, with the critical one approached from both sides.
FRICTIONS = [0.1, 0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 1.5, 10.0]


@pytest.mark.parametrize("friction", FRICTIONS)
@pytest.mark.parametrize(("beta_min", "beta_max"), [(4.0, 4.0), (0.5, 20.0)])
def test_langevin_agrees_with_van_loan(friction, beta_min, beta_max):
    # Van Loan 1978: the exponential of [[-A, G Gᵀ], [0, Aᵀ]] b holds Φ and Q. It is well conditioned for short b alone,
    # from where Q(2b) = Φ Q Φᵀ + Q leads on, a sum of positive terms. Entries in units of the standard deviations.
    sde = CLD(friction=friction, beta_min=beta_min, beta_max=beta_max)
    A = np.array([[0, 4.0], [-1.0, -4.0 * friction]])
    generator = np.block([[-A, np.diag([0, 2 * friction])], [np.zeros((2, 2)), A.T]])
    for t in (1e-2, 0.03, 0.1, 0.3, 1.0):
        b = beta_min * t + 0.5 * (beta_max - beta_min) * t * t
        doublings = max(0, math.ceil(math.log2(b * np.abs(A).max() * 4)))
        block = expm(generator * b / 2**doublings)
        phi = block[2:, 2:].T
        Q = phi @ block[:2, 2:]
        for _ in range(doublings):
            phi, Q = phi @ phi, phi @ Q @ phi.T + Q
        cov = torch.tensor(phi @ np.diag([1e-12, 0.01]) @ phi.T + Q)
        kernel = sde.kernel(tensor(t))
        mean = torch.tensor(expm(A * b)[:, 0])
        assert (kernel.M[0] - mean).norm() / mean.norm() < 1e-12
        close(normalised(covariance(kernel)[0], cov), normalised(cov, cov), 0, 1e-12)


@pytest.mark.parametrize("friction", FRICTIONS)
def test_short_langevin_kernels_keep_twelve_digits(friction):
    # The power series in b, exact to rounding where b is short: Φ = Σ (Ab)ⁿ/n!, Q = Σ over two such series.
    from fractions import Fraction

    f = Fraction(friction)
    A = [[Fraction(0), Fraction(4)], [Fraction(-1), -4 * f]]
    for t in (1e-5, 1e-4, 1e-3):
        b = Fraction(4.0) * Fraction(t)
        terms = [[Fraction(0), Fraction(1)]]  # Aⁿ e₂ / n!
        for n in range(1, 12):
            x, v = terms[-1]
            terms.append([(A[0][0] * x + A[0][1] * v) / n, (A[1][0] * x + A[1][1] * v) / n])
        column = [sum(c[i] * b**n for n, c in enumerate(terms)) for i in (0, 1)]
        Q = [
            [
                2
                * f
                * sum(
                    p[i] * q[j] * b ** (n + m + 1) / (n + m + 1)
                    for n, p in enumerate(terms)
                    for m, q in enumerate(terms)
                )
                for j in (0, 1)
            ]
            for i in (0, 1)
        ]
        cov = [[Q[i][j] + column[i] * column[j] * Fraction(0.04 * 0.25) for j in (0, 1)] for i in (0, 1)]
        kernel = CLD(friction=friction, epsilon=0.0).kernel(tensor(t))
        xx, xv, vv = cov[0][0], cov[0][1], cov[1][1]
        expected = tensor(math.sqrt(xx), 0, float(xv) / math.sqrt(xx), math.sqrt((vv * xx - xv * xv) / xx)).view(2, 2)
        close(kernel.L[0], expected, 1e-12, 0)


def test_frictions_join_smoothly_at_critical_damping():
    t = times_of(CLD())
    below, at, above = (CLD(friction=f).kernel(t).L for f in (1 - 1e-9, 1.0, 1 + 1e-9))
    close(below, at, 1e-8, 1e-10)
    close(above, at, 1e-8, 1e-10)


def test_strong_friction_neither_overflows_nor_loses_the_waveform():
    # Overdamped to the limit, x itself is a VP process: dx = -β/Γ x dt + √(2β/Γ) dW. Here β/Γ = 10 at Γ = 1000.
    sde = CLD(friction=1000.0, beta_min=1e4, beta_max=1e4)
    kernel = sde.kernel(tensor(0.1, 0.3, 1.0))
    close(kernel.M[:, 0], (-10 * tensor(0.1, 0.3, 1.0)).exp(), 1e-4, 1e-9)
    close(kernel.L[:, 0, 0] ** 2, 1 - (-20 * tensor(0.1, 0.3, 1.0)).exp(), 1e-5)


def test_langevin_velocity_precision_is_not_distorted_by_epsilon():
    def precision(epsilon: float, t: float) -> float:
        return float(1 / CLD(epsilon=epsilon).kernel(tensor(t)).L[0, 1, 1])

    assert precision(0.0, 1e-5) == pytest.approx(194, abs=1)
    assert precision(1e-9, 1e-5) == pytest.approx(11, abs=1)
    # Where networks are trained the default distorts nothing.
    assert precision(1e-12, CLD.t_min) == pytest.approx(precision(0.0, CLD.t_min), rel=1e-4)

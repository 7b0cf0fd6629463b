"""Sounds given an observation: on Gaussian data the law that is sampled is the conditional one, which is known."""

import math

import pytest
import torch
from torch import Tensor
from truth import SMOOTH, Correlated

from diffwave_sde.editing.posterior import (
    GradientPosterior,
    LinearGaussian,
    LinearPosterior,
    conjugate_gradients,
)
from diffwave_sde.random import stream
from diffwave_sde.samplers import Ancestral, DPMSolverSDE
from diffwave_sde.sde import CLD, EDM, VP

LENGTH, COUNT = 8, 1000
COVARIANCE = SMOOTH
KNOWN = torch.tensor([True, True, False, True, False, False, False, True])


def observed(noise: float) -> tuple[LinearGaussian, Tensor, Tensor]:
    """An observation of some samples, with the mean and the covariance of the sounds given it."""
    z = torch.tensor([0.3, 0.5, -0.2, 0.4], dtype=torch.float64)
    part = COVARIANCE[:, KNOWN]
    gain = part @ torch.linalg.inv(part[KNOWN] + noise**2 * torch.eye(4, dtype=torch.float64))
    return LinearGaussian(lambda x: x[..., KNOWN], z[None, None], noise), gain @ z, COVARIANCE - gain @ part.mT


def sampled(sde, wrapped, steps=80) -> Tensor:
    u = sde.prior((COUNT, 1, LENGTH), stream(1)).double()
    sampler = DPMSolverSDE(steps) if sde.blocks == 1 else Ancestral(3 * steps)
    return sampler(wrapped, u, generator=stream(2))[:, 0]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("sde", [EDM(), VP(), CLD()], ids=lambda sde: type(sde).__name__)
def test_given_what_was_observed_the_law_is_the_conditional_one(sde, noise):
    likelihood, mean, covariance = observed(noise)
    x = sampled(sde, LinearPosterior(Correlated(sde), likelihood, iterations=4, damping=1e-6))
    std = covariance.diagonal().clamp_min(1e-12).sqrt()
    error = (x.mean(0) - mean).abs() / (std / math.sqrt(COUNT) + 1e-4)
    assert float(error.max()) < 3.5
    free = slice(None) if noise else ~KNOWN
    ratio = x.var(0)[free] / covariance.diagonal()[free]
    assert float((ratio - 1).abs().max()) < 4 * math.sqrt(2 / COUNT) + 0.06  # steps of finite length narrow it a little
    if not noise:
        torch.testing.assert_close(x[:, KNOWN], likelihood.observed[0].expand(COUNT, -1), rtol=0, atol=1e-4)


def test_the_wrong_sign_and_the_wrong_scale_are_seen():
    sde = EDM()
    likelihood, mean, covariance = observed(0.1)

    class Wrong(LinearPosterior):
        factor = -1.0

        def correct(self, D, slope, snr):
            return super().correct(D, lambda f, v: self.factor * slope(f, v), snr)

    for factor in (-1.0, 0.5):
        wrapped = Wrong(Correlated(sde), likelihood, iterations=4, damping=1e-6)
        wrapped.factor = factor
        x = sampled(sde, wrapped)
        error = (x.mean(0) - mean).abs() / (covariance.diagonal().sqrt() / math.sqrt(COUNT))
        assert not float(error.max()) < 10


def test_the_cheaper_ways_are_biased_and_nearer_than_nothing():
    sde = EDM()
    likelihood, mean, _ = observed(0.1)
    exact, isotropic, gradient, plain = (
        float((sampled(sde, one).mean(0) - mean).norm())
        for one in (
            LinearPosterior(Correlated(sde), likelihood, iterations=4, damping=1e-6),
            LinearPosterior(Correlated(sde), likelihood, "isotropic", iterations=4, damping=1e-6),
            GradientPosterior(Correlated(sde), likelihood),
            Correlated(sde),
        )
    )
    assert exact < 0.5 * isotropic
    assert isotropic < 0.5 * plain
    assert gradient < 0.5 * plain


@pytest.mark.parametrize("sde", [VP(), CLD()], ids=lambda sde: type(sde).__name__)
def test_at_fixed_times_the_answer_is_the_same_in_inference_mode_too(sde):
    likelihood, _, _ = observed(0.0)
    wrapped = LinearPosterior(Correlated(sde), likelihood)
    u = torch.randn(3, sde.blocks, 1, LENGTH, dtype=torch.float64, generator=stream(3))
    times = torch.tensor([0.7, 0.2], dtype=torch.float64)
    with torch.no_grad():
        nodes = wrapped.nodes(times, u)
        for i, t in enumerate(times):
            D = wrapped(u, t.expand(3))
            torch.testing.assert_close(nodes(u, i)[0], D, rtol=1e-9, atol=1e-9)
            assert not D.requires_grad


def test_conjugate_gradients_solve_each_example_by_itself():
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    A = factor @ factor.mT + 0.5 * torch.eye(5, dtype=torch.float64)
    b = torch.randn(3, 5, generator=g, dtype=torch.float64)
    b[1] = 0
    x = conjugate_gradients(lambda v: (A @ v[..., None])[..., 0], b, 20)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, z: LinearPosterior(d, z, "best"), "method = 'best': choose exact or isotropic"),
        (lambda d, z: LinearPosterior(d, z, iterations=0), "iterations = 0"),
        (lambda d, z: LinearPosterior(d, z, damping=0.0), "damping = 0"),
        (lambda d, z: GradientPosterior(d, z, 0.0), "scale = 0"),
        (lambda d, z: LinearGaussian(lambda x: x, torch.zeros(1), -1.0), "noise = -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(Correlated(EDM()), observed(0.1)[0])

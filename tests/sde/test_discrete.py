"""Discrete processes: on their own grid they are the published chains, exactly."""

import math

import numpy as np
import pytest
import torch
from truth import close

from diffwave_sde.sde import DDPM, NCSN, VE, VP, CosineVP

N = 1000


def grid(steps: int = N) -> torch.Tensor:
    return torch.arange(1, steps + 1, dtype=torch.float64) / steps


def published_cosine(steps: int) -> np.ndarray:
    """Nichol and Dhariwal 2021, § 3.2: β_t = 1 - ᾱ_t / ᾱ_{t-1}, clipped to 0.999."""
    bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return np.array([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(steps)])


@pytest.mark.parametrize(
    ("sde", "betas"),
    [
        (DDPM(), np.linspace(1e-4, 0.02, N)),
        (DDPM(schedule="cosine"), published_cosine(N)),
        (DDPM(100), np.linspace(1e-3, 0.2, 100)),
        (DDPM(betas=[0.1, 0.5, 0.2, 0.9]), np.array([0.1, 0.5, 0.2, 0.9])),
    ],
    ids=["linear", "cosine", "short", "given"],
)
def test_ddpm_is_its_chain_on_its_grid(sde, betas):
    betas = torch.tensor(betas)
    t = grid(len(betas))
    alpha_bar = (1 - betas).cumprod(0)
    kernel = sde.kernel(t)
    close(kernel.M[:, 0], alpha_bar.sqrt(), 1e-11)
    close(kernel.L[:, 0, 0] ** 2, 1 - alpha_bar, 1e-11)
    # Ho et al. 2020, eq. 2: q(x_t | x_{t-1}) = N(√(1 - β) x_{t-1}, β)
    before = torch.cat((torch.zeros(1).double(), t[:-1]))
    phi, Q = sde.transition(before, t)
    close(phi[:, 0, 0], (1 - betas).sqrt(), 1e-10)
    close(Q[:, 0, 0], betas, 1e-9)
    assert sde.steps == len(betas)
    assert sde.t_min == pytest.approx(t[0])


def test_the_posterior_is_equation_7_of_ho():
    sde, t = DDPM(), grid()[1:]
    beta = torch.tensor(np.linspace(1e-4, 0.02, N))
    bar = (1 - beta).cumprod(0)
    before, now, b = bar[:-1], bar[1:], beta[1:]
    gain, signal, covariance = sde.posterior(t - 1 / N, t)
    close(signal[:, 0], before.sqrt() * b / (1 - now), 1e-8)
    close(gain[:, 0, 0], (1 - b).sqrt() * (1 - before) / (1 - now), 1e-9)
    close(covariance[:, 0, 0], (1 - before) / (1 - now) * b, 1e-8)


def test_ddpm_lies_on_the_continuous_process():
    # A grid on VP: at the times of equal SNR the two kernels are one, and transitions are too.
    for discrete, vp in ((DDPM(), VP()), (DDPM(schedule="cosine"), CosineVP())):
        t = grid()[:990]
        kernel = discrete.kernel(t)
        times = vp.time(kernel.snr)
        assert (times.diff() > 0).all()
        close(vp.kernel(times).M, kernel.M, 1e-10)
        close(vp.kernel(times).L, kernel.L, 1e-9)
        for a, b in zip(vp.transition(times[:-1], times[1:]), discrete.transition(t[:-1], t[1:]), strict=True):
            close(a, b, 1e-7)
    # ... and the published discretisation is near the process that Song et al. take for its limit: t and i / N agree.
    times = VP().time(DDPM().kernel(grid()).snr)
    assert (times - grid()).abs().max() < 5e-3


def test_ncsn_is_its_noise_levels_on_its_grid():
    sigmas = np.geomspace(0.01, 50.0, N)
    kernel = NCSN().kernel(grid())
    close(kernel.M, torch.ones(N, 1).double(), 0)
    close(kernel.L[:, 0, 0], torch.tensor(sigmas), 1e-12)
    # Song et al. 2021, eq. 20: u_i = u_{i-1} + √(σ_i² - σ_{i-1}²) z
    _, Q = NCSN().transition(grid()[:-1], grid()[1:])
    close(Q[:, 0, 0], torch.tensor(np.diff(sigmas**2)), 1e-9)
    given = NCSN(sigmas=[0.1, 0.5, 0.7, 10.0])
    close(given.kernel(grid(4)).L[:, 0, 0], torch.tensor([0.1, 0.5, 0.7, 10.0]).double(), 1e-7)


def test_ncsn_lies_on_the_continuous_process():
    # VE's own grid: σ_i at t = (i - 1) / (N - 1). Song et al. 2021, appendix B.
    on_ve = VE().kernel(torch.arange(N, dtype=torch.float64) / (N - 1)).L
    close(NCSN().kernel(grid()).L, on_ve, 1e-12)


@pytest.mark.parametrize("sde", [DDPM(), NCSN(), DDPM(betas=[0.1, 0.5, 0.2, 0.9])], ids=["DDPM", "NCSN", "given"])
def test_between_its_steps_the_process_goes_on_evenly(sde):
    fine = torch.linspace(sde.t_min, 1, 5001, dtype=torch.float64)
    kernel = sde.kernel(fine)
    log = kernel.M[:, 0].log() if isinstance(sde, DDPM) else kernel.L[:, 0, 0].log()
    i = (fine * sde.steps).floor()
    slope = (log.diff() / fine.diff())[i[:-1] == i[1:]]
    pieces = i[:-1][i[:-1] == i[1:]]
    for piece in pieces.unique()[:5]:
        of = slope[pieces == piece]
        close(of, of.mean().expand_as(of), 1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DDPM(1), "steps = 1"),
        (lambda: DDPM(10), "betas"),  # 1000 / 10 times 0.02 is no probability
        (lambda: DDPM(betas=[0.5, 1.5]), "betas"),
        (lambda: DDPM(schedule="quadratic"), "quadratic"),
        (lambda: NCSN(steps=1), "steps"),
        (lambda: NCSN(sigma_min=2.0, sigma_max=1.0), "sigma_min"),
        (lambda: NCSN(sigmas=[1.0, 0.5]), "rising"),
    ],
)
def test_impossible_chains_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()

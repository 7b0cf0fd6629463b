"""On Gaussian data a cascade of exact denoisers has the joint law of the data, whatever the handover."""

import math

import pytest
import torch
from torch import Tensor

from diffwave_sde.cascade import Handover, StageDenoiser, dct, handed, idct, resize, sample_stages
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.samplers import DPMSolver2M
from diffwave_sde.sde import EDM, VP

LENGTHS = (2, 10, 40)
EYE = torch.eye(40, dtype=torch.float64)


def at_rate(length: int, whole: int = 40) -> Tensor:
    """The matrix of `resize`, (length, whole)."""
    return resize(torch.eye(whole, dtype=torch.float64), length).T


class Exact(BaseDenoiser):
    """E[x | u_t, z] of x ~ N(mean, C), by the precisions of what is known: of z the band that is handed over."""

    def __init__(self, sde, mean: Tensor, C: Tensor):
        super().__init__()
        self.sde, self.mean, self.precision = sde, mean, C.inverse()
        self.sigma_data = torch.tensor(0.5)

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        kernel = self.sde.kernel(t[:1])
        snr, M = float(kernel.snr), float(kernel.M)
        precision = self.precision + snr * torch.eye(len(self.mean), dtype=torch.float64)
        known = snr * (u[:, 0, 0].double() / M - self.mean)
        if condition is not None and condition.audio is not None:
            band, s = handed(condition.audio.shape[-1]), float(condition.level[0])
            P = dct(torch.eye(len(self.mean), dtype=torch.float64))[:, :band].T
            precision = precision + P.T @ P / s**2
            known = known + (dct(condition.audio[:, 0].double())[:, :band] - P @ self.mean) @ P / s**2
        return (self.mean + known @ precision.inverse())[:, None].to(u.dtype), None


def law() -> tuple[Tensor, Tensor]:
    """Mean and covariance of sounds whose bands depend on one another."""
    places = torch.arange(40, dtype=torch.float64)
    near = torch.exp(-((places[:, None] - places) ** 2) / 18)
    louder = 0.4 + 0.6 * torch.exp(-places / 15)
    return 0.3 * (places / 6).sin(), 0.2 * louder[:, None] * (near + 0.2 * EYE) * louder


def deviations(handover: Handover, told: float | None = None, count: int = 4000) -> tuple[float, float]:
    """How many standard errors the mean and the covariance of a cascade's sounds are off, over all their entries."""
    mean, C = law()
    stages = []
    for length in LENGTHS:
        T = at_rate(length)
        stages.append(Exact(EDM(), T @ mean, T @ C @ T.T))
    sampler = DPMSolver2M(80)
    g = torch.Generator().manual_seed(0)
    x = sample_stages(stages, LENGTHS, sampler, handover, g, count=count, told=told)
    assert sampler.nfe <= 3 * 80
    # White if the law is right, so that every entry counts: then sums of their squares are χ².
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(C), (x[:, 0].double() - mean).T, upper=False)
    off = count**0.5 * (white @ white.T / count - EYE)
    entries = torch.cat((off[torch.triu_indices(40, 40, 1).unbind()], off.diagonal() / math.sqrt(2)))
    found = count**0.5 * white.mean(1), entries
    return tuple(float((z.square().sum() - len(z)) / math.sqrt(2 * len(z))) for z in found)


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("level", [0.05, 0.4])
def test_a_cascade_of_exact_denoisers_has_the_joint_law(level, truncated):
    mean, covariance = deviations(Handover(level, truncated))
    assert abs(mean) < 3
    assert abs(covariance) < 3


@pytest.mark.parametrize("truncated", [False, True])
def test_a_wrong_level_told_is_seen(truncated):
    assert deviations(Handover(0.4, truncated), told=0.1)[1] > 10


@pytest.mark.parametrize("sde", [EDM(), VP()], ids=["EDM", "VP"])
def test_a_stage_without_a_network_is_exact_for_data_of_white_bands(sde):
    below, above = 0.4, 0.05
    T = idct(EYE).T  # of coefficients
    C = T @ torch.diag(torch.tensor([below**2] * 9 + [above**2] * 31, dtype=torch.float64)) @ T.T
    seen = []

    def silent(u, noise, condition):
        seen.append((u, condition.level))
        return torch.zeros_like(u[:, :1])

    stage, exact = StageDenoiser(silent, sde, below, above).double(), Exact(sde, torch.zeros(40).double(), C)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 40, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(C).T
    for time, s in ((0.2, 0.1), (0.9, 0.003)):
        t = torch.full((4000,), time, dtype=torch.float64)
        kernel = sde.kernel(t[:1])
        u = kernel.sample(x[:, None], torch.randn(4000, 1, 1, 40, generator=g, dtype=torch.float64))
        z = resize(x[:, None], 10) + s * torch.randn(4000, 1, 10, generator=g, dtype=torch.float64)
        asked = Condition(audio=z, level=torch.full((4000,), s, dtype=torch.float64))
        torch.testing.assert_close(stage(u, t, asked), exact(u, t, asked), rtol=1e-5, atol=1e-7)
        # What the network is given has unit variance, channel by channel.
        assert (seen[-1][0][:, :2].square().mean((0, 2)) - 1).abs().max() < 0.05


@pytest.mark.parametrize("sde", [EDM(), VP()], ids=["EDM", "VP"])
def test_over_its_noise_a_network_is_given_what_silence_takes_away_of_one_variance_across_the_bands(sde):
    seen = []

    def quiet(u, noise, condition):
        seen.append(u[:, 2:])
        return -u[:, 2:3]

    stage, g = StageDenoiser(quiet, sde, 0.4, 0.05).double(), torch.Generator().manual_seed(1)
    for sigma, s in ((3.0, 0.1), (0.01, 0.1), (0.01, 0.003)):
        t = sde.time(torch.tensor([sigma**-2], dtype=torch.float64)).expand(4000)
        noise = torch.randn(4000, 1, 1, 40, generator=g, dtype=torch.float64)
        z = s * torch.randn(4000, 1, 10, generator=g, dtype=torch.float64)
        level = torch.full((4000,), s, dtype=torch.float64)
        D = stage(
            sde.kernel(t[:1]).sample(torch.zeros(4000, 1, 40).double(), noise), t, Condition(audio=z, level=level)
        )
        assert D.abs().max() < 1e-6
        of_a, of_z = dct(seen[-1]).square().mean(0).split(1)
        if sigma < 0.05:  # where the data's own variance says nothing
            assert (of_a[0] - 1).abs().max() < 0.15
        torch.testing.assert_close(of_z[0, :9].mean(), torch.tensor(1.0).double(), rtol=0.03, atol=0)
        assert of_z[0, 9:].abs().max() < 1e-12


def test_a_stage_without_the_sound_before_it_is_refused():
    stage = StageDenoiser(torch.nn.Identity(), EDM())
    with pytest.raises(ValueError, match="needs the sound before it"):
        stage(torch.zeros(1, 1, 1, 40), torch.tensor([0.5]))


def test_the_last_tenth_of_what_a_stage_made_is_not_handed_over():
    def silent(u, noise, condition):
        return torch.zeros_like(u[:, :1])

    g = torch.Generator().manual_seed(0)
    stage = StageDenoiser(silent, EDM(), 0.4, 0.05)
    y = torch.randn(1, 1, 20, generator=g)
    worse = y.clone()
    worse[..., 18:] += 1
    level = torch.full((1,), 0.1)
    u, t = torch.randn(1, 1, 1, 80, generator=g), torch.tensor([0.5], dtype=torch.float64)
    one, other = (stage(u, t, Condition(audio=idct(z), level=level)) for z in (y, worse))
    torch.testing.assert_close(one, other)
    worse[..., 17] += 1
    assert (stage(u, t, Condition(audio=idct(worse), level=level)) - one).abs().max() > 0.01

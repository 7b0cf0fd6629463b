"""Exact truth: data whose scores are known, and every concrete class of the package, found by walking subclasses."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import diffwave_sde
from diffwave_sde.denoiser import BaseDenoiser, Denoiser
from diffwave_sde.loss import NoiseDraw, TimeSampler, Weight, WeightInputs
from diffwave_sde.parametrization import Parametrization
from diffwave_sde.samplers import Grid, GridSampler, LearnedGrid, TimesGrid
from diffwave_sde.sde import CLD, DDPM, SDE, VDM, Kernel, MeanSigma, broadcast_like

# Where a plug-in may be written: a file added there is walked the day it is added.
for room in ("sde", "denoiser", "loss", "distillation", "samplers", "networks", "guidance", "clipping", "editing"):
    module = importlib.import_module(f"diffwave_sde.{room}")
    for entry in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(entry.name)


def concrete(base: type) -> list[type]:
    """The concrete subclasses of `base` that the package defines, none that a test does."""

    def walk(cls: type) -> Iterator[type]:
        for below in cls.__subclasses__():
            if not inspect.isabstract(below) and below.__module__.split(".")[0] == diffwave_sde.__name__:
                yield below
            yield from walk(below)

    return sorted(dict.fromkeys(walk(base)), key=lambda c: c.__name__)


def bent(seed: int = 0) -> VDM:
    """A learned process far from where it begins."""
    sde, g = VDM(), torch.Generator().manual_seed(seed)
    for parameter in sde.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=g)
    return sde.requires_grad_(False)


# Beside the defaults, what has other branches than they.
VARIANTS: dict[str, SDE] = {
    "CLD-underdamped": CLD(friction=0.4, beta_min=4.0, beta_max=30.0),
    "CLD-overdamped": CLD(friction=3.0, beta_min=4.0, beta_max=40.0),
    "CLD-bare": CLD(epsilon=0.0),
    "DDPM-cosine": DDPM(schedule="cosine"),
    "VDM-bent": bent(),
    "MeanSigma-faded": MeanSigma(lambda t: 0.9 * (1 - t.square()), lambda t: (1e-6 + t * t).sqrt()),
}
PROCESSES: dict[str, SDE] = {cls.__name__: cls().requires_grad_(False) for cls in concrete(SDE)} | VARIANTS
DEFAULTS = [name for name in PROCESSES if name not in VARIANTS]
PARAMETRIZATIONS: dict[str, Parametrization] = {cls.__name__: cls() for cls in concrete(Parametrization)}
WEIGHTS: dict[str, Weight] = {cls.__name__: cls() for cls in concrete(Weight)}
TIMES: dict[str, TimeSampler] = {cls.__name__: cls() for cls in concrete(TimeSampler)}
SAMPLERS: dict[str, type[GridSampler]] = {cls.__name__: cls for cls in concrete(GridSampler)}
GRIDS: dict[str, Grid] = {cls.__name__: cls() for cls in concrete(Grid) if cls not in (TimesGrid, LearnedGrid)}


def tensor(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def covariance(kernel: Kernel) -> Tensor:
    return kernel.L @ kernel.L.mT


def close(a, b, rtol=1e-9, atol=0.0):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def normalised(Q: Tensor, like: Tensor) -> Tensor:
    """Q in units of the standard deviations of `like`, so that every entry counts."""
    d = like.diagonal(dim1=-2, dim2=-1).sqrt()
    return Q / (d[..., :, None] * d[..., None, :])


def times_of(sde: SDE, count: int = 9) -> Tensor:
    """Times from t_min to t_max: both ends, close to the lower one, and between."""
    near = sde.t_min * torch.logspace(0, 1, 3, dtype=torch.float64)
    return torch.cat((near, torch.linspace(0.05, sde.t_max, count - 3, dtype=torch.float64)))


class Mixture:
    """Samples independent of one another, each of the law Σ w_k N(μ_k, s_k²)."""

    def __init__(self, weights=(1.0,), means=(0.0,), stds=(0.5,)):
        self.weights, self.means, self.stds = (torch.tensor(a, dtype=torch.float64) for a in (weights, means, stds))

    @property
    def variance(self) -> float:
        mean = (self.weights * self.means).sum()
        return float((self.weights * (self.stds**2 + self.means**2)).sum() - mean**2)

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)

    def sample(self, shape, generator=None) -> Tensor:
        k = torch.multinomial(self.weights, math.prod(shape), True, generator=generator).view(shape)
        return self.means[k] + self.stds[k] * torch.randn(shape, generator=generator, dtype=torch.float64)

    def denoise(self, sde: SDE, u: Tensor, t: Tensor) -> Tensor:
        """E[x | u_t = u], by Bayes over the components: u (B, S, C, T), t (B,) -> (B, C, T), in the type of u."""
        kernel = sde.kernel(t if t.stride(0) else t[:1])  # once for a time that all share
        matched = (broadcast_like(kernel.matched, u) * u).sum(1).double()[..., None]
        snr = broadcast_like(kernel.snr, matched[..., 0]).double()[..., None]
        precision = self.stds**-2 + snr
        posterior = (self.means * self.stds**-2 + matched) / precision
        evidence = self.weights.log() - 0.5 * (
            (1 + snr * self.stds**2).log() + self.means.square() * self.stds**-2 - posterior.square() * precision
        )
        return (evidence.softmax(-1) * posterior).sum(-1).to(u.dtype)

    def score(self, sde: SDE, u: Tensor, t: float) -> Tensor:
        """∇ log p(u_t), by automatic differentiation of the density of one sample's state: u (N, S) -> (N, S)."""
        kernel = sde.kernel(torch.tensor([t], dtype=torch.float64))
        M, cov = kernel.M[0], kernel.L[0] @ kernel.L[0].mT
        u = u.clone().requires_grad_()
        parts = []
        for w, mean, std in zip(self.weights, self.means, self.stds, strict=True):
            C = cov + std**2 * M[:, None] * M
            r = u - mean * M
            parts.append(w.log() - 0.5 * ((r @ C.inverse()) * r).sum(-1) - 0.5 * C.logdet())
        (gradient,) = torch.autograd.grad(torch.stack(parts).logsumexp(0).sum(), u)
        return gradient


GAUSSIAN = Mixture()
MIXTURE = Mixture((0.3, 0.5, 0.2), (-0.8, 0.1, 0.7), (0.05, 0.1, 0.2))


class Oracle(BaseDenoiser):
    """The exact denoiser of a law of data."""

    def __init__(self, sde: SDE, data: Mixture):
        super().__init__()
        self.sde, self.data, self.sigma_data = sde, data, data.std
        self.calls = 0

    def predict(self, u: Tensor, t: Tensor, condition: object = None) -> tuple[Tensor, None]:
        self.calls += 1
        return self.data.denoise(self.sde, u, t), None


def smooth(length: int) -> Tensor:
    """The covariance of samples that go together: (length, length)."""
    places = torch.arange(length, dtype=torch.float64)
    near = torch.exp(-((places[:, None] - places) ** 2) / 8)
    return 0.25 * near + 1e-3 * torch.eye(length, dtype=torch.float64)


SMOOTH = smooth(8)


class Correlated(BaseDenoiser):
    """The exact denoiser of N(0, SMOOTH): D = C (C + I / snr)⁻¹ y, y the matched statistic."""

    def __init__(self, sde: SDE):
        super().__init__()
        self.sde, self.sigma_data = sde, torch.tensor(0.5)

    def predict(self, u: Tensor, t: Tensor, condition: object = None) -> tuple[Tensor, None]:
        kernel = self.sde.kernel(t)
        y = (broadcast_like(kernel.matched, u) * u).sum(1) / broadcast_like(kernel.snr, u[:, 0])
        noisy = SMOOTH + torch.eye(len(SMOOTH), dtype=torch.float64) / kernel.snr[:, None, None]
        return (y.double() @ (SMOOTH @ torch.linalg.inv(noisy)).mT).to(u.dtype), None


class ExactNet(nn.Module):
    """The exact network of a law of data, told no more than any network: it finds the time from `noise`."""

    def __init__(self, sde: SDE, parametrization: Parametrization, data: Mixture, sigma_data: float):
        super().__init__()
        self.sde, self.parametrization, self.data, self.sigma_data = sde, parametrization, data, sigma_data

    def forward(self, u: Tensor, noise: Tensor, condition: object = None) -> Tensor:
        t = self.sde.time((-8 * noise.double()).exp() / self.sigma_data**2)
        kernel = self.sde.kernel(t)
        sigma_data = torch.tensor(self.sigma_data, dtype=torch.float64)
        power = kernel.M.square() * self.sigma_data**2 + kernel.L.square().sum(-1)
        u = u.unflatten(1, (self.sde.blocks, -1)).double()
        u = u * broadcast_like(power.sqrt(), u)
        skip, out = self.parametrization(kernel, sigma_data)
        D = self.data.denoise(self.sde, u, t)
        return (D - (broadcast_like(skip, u) * u).sum(1)) / broadcast_like(out, D)


def exact(sde: SDE, parametrization: Parametrization, data: Mixture, sigma_data: float = 0.5) -> Denoiser:
    """A Denoiser that holds the exact network of `data`, in float64."""
    return Denoiser(ExactNet(sde, parametrization, data, sigma_data), sde, parametrization, sigma_data).double()


# -------------------------------------------------------------------------------------- what tests of losses share

SIGMA_DATA = 0.5


def fixed(sde, t, examples=40, length=1000, data=GAUSSIAN, seed=0):
    """Data and a draw at one time."""
    g = torch.Generator().manual_seed(seed)
    x = data.sample((examples, 1, length), g)
    eps = torch.randn(examples, sde.blocks, 1, length, generator=g, dtype=torch.float64)
    return x, NoiseDraw(torch.full((examples,), t, dtype=torch.float64), eps)


def weight_inputs(sde, t):
    return WeightInputs(sde, t, sde.kernel(t), torch.tensor(SIGMA_DATA, dtype=torch.float64))


def within(values, expected, sigmas=5.0):
    """Whether the mean of independent `values` is `expected`, within its own error."""
    error = values.std() / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < sigmas * float(error), (values.mean(), expected, error)

"""What a training step makes least."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.divergence import draw_probes, estimates, trace
from diffwave_sde.loss.times import DiscreteTime, LogNormalSigma, TimeSampler
from diffwave_sde.loss.weights import EpsilonWeight, KarrasWeight, Weight, WeightInputs
from diffwave_sde.random import Generator, rand, randn
from diffwave_sde.sde import SDE, Kernel, broadcast_like, embed_waveform, float64

TimeSampling = Literal["stratified", "low-discrepancy", "independent"]


@dataclass(frozen=True)
class NoiseDraw:
    """What a loss drew for a batch: enough to compute it again.

    t: times, (B,), float64.  eps: noise, (B, S, C, T).
    weight: what the loss is multiplied by since t was drawn from another law than the objective's, (B,); or None.
    probes: signs, (B, n, S, C, T), for the objectives that want them; or None.
    """

    t: Tensor
    eps: Tensor
    weight: Tensor | None = None
    probes: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> NoiseDraw:
        """The same for some of the examples."""
        return NoiseDraw(**{k: None if v is None else v[rows] for k, v in vars(self).items()})


class NoisedLoss(nn.Module):
    """A loss of clips that are noised: how their times and noise are drawn.

    time: the law of the times.
    time_sampling: how a batch is spread over that law: one time in each of B equal parts ("stratified"); the same with
        one offset for all parts (VDM's "low-discrepancy", Kingma et al. 2021, app. I.1); or "independent".
    probes: random signs drawn for each number of the state.
    """

    probes: int = 0

    def __init__(self, time: TimeSampler, time_sampling: TimeSampling):
        super().__init__()
        if time_sampling not in TimeSampling.__args__:
            raise ValueError(f"time_sampling = {time_sampling!r}: choose one of {', '.join(TimeSampling.__args__)}")
        self.time, self.time_sampling = time, time_sampling

    def begin_step(self, step: int) -> None:
        """Before the losses of the optimizer's step number `step`, from 0."""

    @final
    def draw(
        self,
        sde: SDE,
        x: Tensor,
        generator: Generator = None,
        position: Tensor | None = None,
        total: int = 0,
        shared: torch.Generator | None = None,
    ) -> NoiseDraw:
        """Draw a time and noise for each of x (B, C, T), the times spread over the global batch.

        Args:
            generator: one, or one for each example.
            position: where each example stands in the global batch, (B,); null for the batch alone.
            total: examples in the global batch.
            shared: a generator in the same state on all processes, for what they have to agree on; null for the first
                of `generator`.
        """
        if position is None:
            position, total = torch.arange(len(x), device=x.device), len(x)
        q = float64(rand((len(x),), generator, device=x.device))
        if self.time_sampling == "low-discrepancy":
            first = generator[0] if isinstance(generator, list | tuple) else generator
            q = float64(rand((1,), shared or first, device=x.device))
        if self.time_sampling != "independent":
            q = (float64(position) + q) / total
        t = self.time(sde, q)
        eps = randn((len(x), sde.blocks, *x.shape[1:]), generator, x.dtype, x.device)
        probes = None
        if self.probes:
            shape = (len(x), self.probes, *eps.shape[1:])
            probes = draw_probes("rademacher", shape, generator, x.dtype, x.device)
        return NoiseDraw(t, eps, self.time.correction(sde, t), probes)


class Objective(NoisedLoss, ABC):
    """A loss, example by example, of a denoiser.

    invariant: whether its mean stays when a process runs otherwise between the same ends; only then can it teach one.
    """

    invariant: bool = False

    @abstractmethod
    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        """The loss of each example of x (B, C, T) for given times and noise: (B,)."""

    def validate(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        """What is reported of a validation, (B,): the loss, but for one that changes as training goes on."""
        return self.at(denoiser, x, draw, condition)

    def begin(self, denoiser: Denoiser, sampler: Any, started: bool = False) -> None:
        """Before training, and before a checkpoint is read to go on from: how the denoiser starts.

        `started`: it has the weights of a model already (`fit --init`), and keeps them.

        Raises:
            ValueError: if the denoiser, or the sampler that it is to be heard by, is not one for this objective.
        """

    @final
    def forward(
        self, denoiser: Denoiser, x: Tensor, condition: Condition | None = None, generator: Generator = None
    ) -> Tensor:
        """The loss of each example of x (B, C, T), at times and noise of its own: (B,)."""
        return self.at(denoiser, x, self.draw(denoiser.sde, x, generator), condition)


def finish(loss: Tensor, denoiser: Denoiser, draw: NoiseDraw) -> Tensor:
    """The loss (B,), corrected for the law that its times were drawn from; a process that learns is shown it."""
    if draw.weight is not None:
        loss = broadcast_like(draw.weight, loss) * loss
    denoiser.sde.observe(loss)
    return loss


def weight_inputs(denoiser: Denoiser, t: Tensor, kernel: Kernel) -> WeightInputs:
    return WeightInputs(denoiser.sde, t, kernel, float64(denoiser.sigma_data).to(kernel.M))


def mean_square(error: Tensor) -> Tensor:
    """(B, C, T) -> (B,)."""
    # In float32 at least: squares of small errors vanish in half precision.
    return error.to(torch.promote_types(error.dtype, torch.float32)).square().flatten(1).mean(1)


class Loss(Objective):
    """Denoising score matching: w(t) |D - x|².

    Args:
        time: the law of the times.
        weight: the weight of |D - x|².
        time_sampling: how a batch is spread over the law of the times: one time in each of B equal parts
            ("stratified"); the same with one offset for all ("low-discrepancy"); or "independent".
    """

    def __init__(
        self, time: TimeSampler | None = None, weight: Weight | None = None, time_sampling: TimeSampling = "stratified"
    ):
        super().__init__(time or LogNormalSigma(), time_sampling)
        self.weight = weight or KarrasWeight()
        self.invariant = self.time.invariant and self.weight.invariant

    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        kernel = denoiser.sde.kernel(draw.t)
        error = mean_square(denoiser(kernel.sample(x, draw.eps), draw.t, condition) - x)
        return finish(
            broadcast_like(self.weight(weight_inputs(denoiser, draw.t, kernel)), error) * error, denoiser, draw
        )


class HybridLoss(Objective):
    """Improved DDPM: L_simple + vlb · L_vlb, by which the network also learns the variance of the reverse step.

    L_vlb, in bits per sample, is the bound of the chain of N steps t = i t_max / N: between the forward process's own
    posterior q(u_s | u_t, x) and N(its mean at D, exp(v log β + (1 - v) log β̃)), with β the variance of the forward
    step, β̃ that of the posterior, and v the network's second output; at the last step the likelihood of x itself,
    rounded to `bits`. D is not moved by it. The network needs `variance: true`, the process one block.
    Source: Nichol and Dhariwal 2021, eq. 15 and 16, § 3.1.

    Args:
        time: the law of the times, on a grid of N; DiscreteTime by default, ImportanceTime of it for L_vlb alone.
        weight: the weight of L_simple; EpsilonWeight as published.
        vlb: the weight of L_vlb.
        bits: resolution of the sound that the last step's likelihood is counted in.
        time_sampling: as for Loss.
    """

    def __init__(
        self,
        time: TimeSampler | None = None,
        weight: Weight | None = None,
        vlb: float = 0.001,
        bits: int = 16,
        time_sampling: TimeSampling = "stratified",
    ):
        super().__init__(time or DiscreteTime(), time_sampling)
        if not self.time.law.discrete:
            raise ValueError(f"HybridLoss needs times on a grid, not {type(self.time).__name__}: take DiscreteTime")
        if vlb < 0 or bits < 1:
            raise ValueError(f"vlb = {vlb:g} must be at least 0, and bits = {bits} at least 1")
        self.weight = weight or EpsilonWeight()
        self.vlb, self.bits = vlb, bits

    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        sde = denoiser.sde
        if sde.blocks > 1:
            raise ValueError(f"HybridLoss needs a process of one block, and {type(sde).__name__} has {sde.blocks}")
        kernel = sde.kernel(draw.t)
        u = kernel.sample(x, draw.eps)
        D, share = denoiser.predict(u, draw.t, condition)
        if share is None:
            raise ValueError("HybridLoss needs a network with a second output: --model.net.variance=true")
        error = mean_square(D - x)
        simple = broadcast_like(self.weight(weight_inputs(denoiser, draw.t, kernel)), error) * error
        bound = self._bound(sde, x, u[:, 0], draw.t, D.detach(), share)
        return finish(simple + self.vlb * bound, denoiser, draw)

    def _bound(self, sde: SDE, x: Tensor, u: Tensor, t: Tensor, D: Tensor, share: Tensor) -> Tensor:
        """N times the bound's term at t, in bits per sample: (B,)."""
        steps = self.time.law.count(sde)
        step = sde.t_max / steps
        s = torch.where(t < 1.5 * step, 0.0, t - step)
        last = s == 0
        gain, signal, covariance = (a.flatten(1)[:, 0] for a in sde.posterior(s, t))
        # Without noise at t = 0 the last step's posterior has none: as published, the one before stands in.
        before = sde.posterior(s.clamp_min(step), t.clamp_min(2 * step))[2]
        small, large = torch.where(last, before[:, 0, 0], covariance), sde.transition(s, t)[1][:, 0, 0]
        share = share.to(torch.promote_types(share.dtype, torch.float32))
        gain, signal, last, small, large = (broadcast_like(a, share) for a in (gain, signal, last, small, large))
        log_variance = small.log() + share * (large.log() - small.log())
        excess = small + (signal * (x - D)).square()
        divergence = 0.5 * (log_variance - small.log() + excess * (-log_variance).exp() - 1)
        surprise = self._surprise(x, gain * u + signal * D, log_variance)
        return steps / math.log(2) * torch.where(last > 0, surprise, divergence).flatten(1).mean(1)

    def _surprise(self, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """-log of the mass of N(mean, variance) in the step of the `bits`-bit grid around x, in nats."""
        half, scale = 1 / (2**self.bits - 1), (-0.5 * log_variance).exp()
        above = torch.where(x > 1 - half, torch.inf, (x - mean + half) * scale)
        below = torch.where(x < -1 + half, -torch.inf, (x - mean - half) * scale)
        # By the tail where both are small: near 1 their difference would be lost.
        flip = above + below > 0
        above, below = torch.where(flip, -below, above), torch.where(flip, -above, below)
        mass = torch.special.ndtr(above) - torch.special.ndtr(below)
        # A step narrower than float32 can tell is the density times its width.
        density = 2 * half * scale * (-0.5 * ((x - mean) * scale).square()).exp() / math.sqrt(2 * math.pi)
        return -torch.where(mass > 1e-4, mass, torch.maximum(mass, density)).clamp_min(1e-30).log()


class ImplicitLoss(Objective):
    """Score matching without a target: |s|² + 2 tr ∇s, whose mean is that of |s - ∇ log p|² but for a constant.

    On the data itself, at t_min and without noise; or, perturbed, with the gradient of Loss at the same weight. It
    differentiates the network twice, so it is for small problems.
    Source: Hyvärinen 2005, eq. 4; sliced: Song et al. 2019, eq. 8.

    Args:
        time: the law of the times; of no use unless `perturb`.
        weight: the weight, in terms of |D - x|² as for Loss; of no use unless `perturb`.
        trace: "exact", one backward pass for each number of a state; or "sliced", with random signs.
        slices: signs drawn for each example, where sliced.
        perturb: whether the states are drawn from the process, at the law of the times.
        time_sampling: as for Loss.
    """

    def __init__(
        self,
        time: TimeSampler | None = None,
        weight: Weight | None = None,
        trace: Literal["exact", "sliced"] = "sliced",
        slices: int = 1,
        perturb: bool = False,
        time_sampling: TimeSampling = "stratified",
    ):
        super().__init__(time or LogNormalSigma(), time_sampling)
        if trace not in ("exact", "sliced"):
            raise ValueError(f"trace = {trace!r}: choose exact or sliced")
        if slices < 1:
            raise ValueError(f"slices = {slices}: draw at least one")
        self.weight, self.perturb = weight or KarrasWeight(), perturb
        self.probes = slices if trace == "sliced" else 0

    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        sde = denoiser.sde
        if not self.perturb and sde.blocks > 1:
            raise ValueError(f"{type(sde).__name__} has no state without noise: set the loss's perturb to true")
        with torch.inference_mode(False), torch.set_grad_enabled(True):
            # Copies: what was made in inference mode has no gradients, here neither.
            t = draw.t.clone() if self.perturb else torch.full_like(draw.t, sde.t_min).clone()
            kernel = sde.kernel(t)
            u = kernel.sample(x.clone(), draw.eps.clone()) if self.perturb else embed_waveform(kernel.M, x.clone())
            u = u.detach().requires_grad_()
            probes = None if draw.probes is None else draw.probes.clone()
            score = denoiser.score(u, t, condition)
            if probes is None:
                divergence = trace(score, u, create_graph=True)
            else:
                divergence = estimates(score, u, probes, create_graph=True).mean(1)
            loss = score.square().flatten(1).sum(1) + 2 * divergence
            loss = loss / x[0].numel()
            if self.perturb:
                # |s - ∇ log p(u | x)|² = |Σ⁻¹M|² |D - x|²
                weight = self.weight(weight_inputs(denoiser, t, kernel)) / kernel.matched.square().sum(-1)
                loss = broadcast_like(weight, loss) * loss
        return finish(loss, denoiser, draw)

r"""Consistency in continuous time: the end of the flow does not move as the flow is followed.

D is a consistency function if D(u_t, t) is the same all along a path of the flow. In λ = ln σ, for y = u / m,

    dD/dλ = ∂D/∂y · (y - D') + ∂D/∂λ = 0,    D' the teacher's D, or the sound itself

which needs no second time t' < t, whose distance trades error for noise (`consistency`). The derivative is taken
forward through the network, beside the value.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffwave_sde.bounds import not_negative, positive
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.distillation.consistency import judged
from diffwave_sde.distillation.flow import scalar
from diffwave_sde.distillation.teacher import Teacher, Weights
from diffwave_sde.loss import KarrasWeight, LogNormalSigma, NoiseDraw, Objective, TimeSampler
from diffwave_sde.loss.objectives import TimeSampling, finish, mean_square, weight_inputs
from diffwave_sde.samplers import Sampler
from diffwave_sde.sde import SDE, broadcast_like, float64


class ContinuousConsistency(Objective):
    """sCM: D(u_t, t) ← D - σ_d s ĝ, ĝ = g / (|g| + c), with the tangent

        g = [k² (D - D') + r (dD/dλ - k² (D - D'))] / (s σ_d),    s = σ / √(σ² + σ_d²),  k² = 1 - s²

    r rises from 0, where the student is told the teacher's D, to 1 in `warmup` steps. |g| is the root of a sound's mean
    square. The weight is KarrasWeight's. In the source's terms σ = σ_d tan t, and g is cos t df/dt: s = sin t, k = cos
    t. Source: Lu and Song 2024, eq. 8, § 4.1 (tangent warm-up, tangent normalisation).

    It is to be heard by `ConsistencySampler`. The derivative costs about three calls of the network.

    Args:
        teacher: a checkpoint, a run's folder, or the name of a model that comes with the program: whose weights the
            student starts from.
        flow: whose flow is followed, `teacher` (distillation) or `sound` (training: D' is the sound itself, and the
            teacher's guidance is not learned).
        guidance: weight of the teacher's classifier-free guidance, which the student has learned then; null for the
            teacher's own; two weights for a student that is told any weight between (`Network.guidance`).
        warmup: steps of the optimizer in which r rises to 1.
        normalise: c; 0.1 in the source.
        time: the law of t.
        time_sampling: as for Loss.
    """

    step: Tensor

    def __init__(
        self,
        teacher: str,
        flow: Literal["teacher", "sound"] = "teacher",
        guidance: Weights = None,
        warmup: int = 1000,
        normalise: float = 0.1,
        time: TimeSampler | None = None,
        time_sampling: TimeSampling = "stratified",
    ):
        super().__init__(time or LogNormalSigma(), time_sampling)
        positive(normalise=normalise)
        not_negative(warmup=warmup)
        if flow not in ("teacher", "sound"):
            raise ValueError(f"flow = {flow!r}: choose teacher or sound")
        self.teacher, self.flow = Teacher(teacher, 1.0 if flow == "sound" else guidance), flow
        self.warmup, self.normalise, self.weight = warmup, normalise, KarrasWeight()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def begin(self, denoiser: Denoiser, sampler: Sampler, started: bool = False) -> None:
        scalar(denoiser.sde, type(self).__name__)
        self.teacher.start(denoiser, started)

    def begin_step(self, step: int) -> None:
        self.step.fill_(step)

    @torch.no_grad()
    def target(
        self, denoiser: BaseDenoiser, x: Tensor, u: Tensor, t: Tensor, condition: Condition | None
    ) -> Tensor:  # fmt: skip
        """x̃ (B, C, T) for the states u (B, 1, C, T) of the sounds x (B, C, T) at t (B,)."""
        goal = self.teacher(u, t, condition) if self.flow == "teacher" else x
        D, along = along_the_flow(denoiser, u, t, goal, condition)
        sigma_data = float64(denoiser.sigma_data).to(t)
        variance = 1 / denoiser.sde.kernel(t).snr
        s2 = variance / (variance + sigma_data.square())
        first = broadcast_like(1 - s2, D) * (D - goal)
        share = 1.0 if self.warmup == 0 else (self.step / self.warmup).clamp(max=1.0).to(D)
        scale = broadcast_like(s2.sqrt() * sigma_data, D)
        g = (first + share * (along - first)) / scale
        size = broadcast_like(mean_square(g).sqrt(), g)
        return D - scale * g / (size + self.normalise)

    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        kernel = denoiser.sde.kernel(draw.t)
        u = kernel.sample(x, draw.eps)
        condition = self.teacher.told(draw, condition)
        target = self.target(denoiser, x, u, draw.t, condition)
        error = mean_square(denoiser(u, draw.t, condition) - target)
        weight = self.weight(weight_inputs(denoiser, draw.t, kernel))
        return finish(broadcast_like(weight, error) * error, denoiser, draw)

    @torch.no_grad()
    def validate(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        """w(t) |D - x̃|² with x̃ the end of the teacher's flow: the loss itself says nothing of how good D is."""
        return judged(self.teacher, denoiser, self.weight, x, draw, condition)


def along_the_flow(
    denoiser: BaseDenoiser, u: Tensor, t: Tensor, goal: Tensor, condition: Condition | None = None
) -> tuple[Tensor, Tensor]:
    """(D, dD/dλ), (B, C, T) each, at the states u (B, 1, C, T) and t (B,), where the flow leads to `goal` (B, C, T).

    du/dλ = u d(ln m)/dλ + m (y - D') for y = u / m, by forward differentiation.
    """
    (m, _), (dm, dlog) = torch.func.jvp(lambda t: _levels(denoiser.sde, t), (t,), (torch.ones_like(t),))
    dt = 1 / dlog
    du = u * broadcast_like(dm * dt / m, u) + u - broadcast_like(m, u) * goal[:, None]
    # The fused kernels of attention know no forward derivative, half precision has no digits for one, and a compiled
    # network none either.
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.autocast(u.device.type, enabled=False),
        torch.compiler.set_stance("force_eager"),
    ):
        return torch.func.jvp(lambda u, t: denoiser(u, t, condition), (u, t), (du, dt))


def _levels(sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """(m, ln σ) (B,) at t (B,), σ that of y = u / m."""
    kernel = sde.kernel(t)
    return kernel.M[:, 0], -0.5 * kernel.snr.log()

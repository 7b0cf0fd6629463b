r"""Consistency: D at a time is D at an earlier one, on the same path of the flow.

    D(u_t, t) ← D(u_r, r),    r before t;    D(u, 0) = u

so that D is the end of the path, and one call makes a sound. u_r is moved from u_t by a step of DDIM: with the
teacher's D (distillation), or with the sound itself, which gives u_r = m_r x + σ_r ε (tuning). The boundary condition
holds by the parametrization, `Karras` or `Consistency`. r closes in on t as training goes on.

Within `segments` parts of the noise levels D need only lead to the next part's beginning, and as many steps of DDIM
make a sound: easier to learn for as many calls (Heek et al. 2024, algorithm 1). One part is the whole.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from diffwave_sde.bounds import not_negative, positive
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.distillation.flow import Flow, between, scalar
from diffwave_sde.distillation.teacher import Teacher, Weights
from diffwave_sde.loss import KarrasWeight, LogNormalSigma, NoiseDraw, Objective, TimeSampler, Weight
from diffwave_sde.loss.objectives import TimeSampling, finish, mean_square, weight_inputs
from diffwave_sde.samplers import Grid, JumpGrid, Sampler
from diffwave_sde.sde import SDE, broadcast_like, float64

JUDGED = 16
"""Steps of the teacher's flow that validation holds a student to."""


class _Consistency(Objective):
    """What both share: the pair of times, the target without a gradient, the adaptive weight.

    loss = (√(w(t) |D - x̃|² + c²) - c) / (1 - σ_r / σ_t): its gradient is that of the squared error, over its own root
    and over the gap, so that neither a closing gap nor a loud clip changes how much is learned from it.
    """

    step: Tensor

    def __init__(
        self,
        teacher: Teacher | None,
        time: TimeSampler | None,
        weight: Weight | None,
        closer: float,
        every: int,
        stages: int,
        wider: float,
        huber: float,
        segments: int,
        grid: Grid | None,
        time_sampling: TimeSampling,
    ):
        super().__init__(time or LogNormalSigma(), time_sampling)
        positive(huber=huber)
        not_negative(wider=wider)
        if closer <= 1 or every < 1 or stages < 1:
            raise ValueError(
                f"closer = {closer:g} must exceed 1, and every = {every} steps and stages = {stages} be at least 1"
            )
        if segments < 1:
            raise ValueError(f"segments = {segments}: the noise levels are at least one part")
        self.teacher, self.weight = teacher, weight or KarrasWeight()
        self.closer, self.every, self.stages, self.wider, self.huber = closer, every, stages, wider, huber
        self.segments, self.grid = segments, grid or JumpGrid()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def lead(self, flow: Flow, x: Tensor, r: Tensor, condition: Condition | None) -> Tensor:
        """Lead the flow of the sounds x (B, C, T) to r (B,); the state there, (B, 1, C, T)."""

    def begin(self, denoiser: Denoiser, sampler: Sampler, started: bool = False) -> None:
        scalar(denoiser.sde, type(self).__name__)
        if self.teacher is not None:
            self.teacher.start(denoiser, started)

    def begin_step(self, step: int) -> None:
        self.step.fill_(step)

    def gap(self, sigma: Tensor, sigma_data: Tensor) -> Tensor:
        """1 - σ_r / σ_t, (B,), at the noise levels σ_t (B,).

        n(t) / q^(k + 1), n = 1 + `wider` · sigmoid(-σ / 2 σ_d), k stages so far. Source: Geng et al. 2024, eq. 10, and
        their b t with σ_d = ½.
        """
        stage = torch.div(self.step.to(sigma.device), self.every, rounding_mode="floor").clamp(max=self.stages - 1)
        wide = 1 + self.wider * torch.sigmoid(-0.5 * sigma / sigma_data)
        return (wide * self.closer ** -(stage.to(sigma) + 1)).clamp(max=1.0)

    def end(self, sde: SDE, t: Tensor) -> Tensor:
        """Where the part that each of t (B,) is in ends: the next of the parts' beginnings, or 0."""
        begins = self.grid(sde, self.segments).to(t.device)
        own = torch.cat((begins, begins.new_zeros(1)))
        below = own[None, :] < t[:, None] * (1 - 1e-9)
        return torch.where(below, own[None, :], 0.0).amax(1)

    def earlier(self, sde: SDE, t: Tensor, s: Tensor, sigma_data: Tensor) -> tuple[Tensor, Tensor]:
        """(r (B,), gap (B,)) for t (B,): r no earlier than the part's end s (B,), and 0 where that is below t_min."""
        sigma = sde.kernel(t).snr.rsqrt()
        gap = self.gap(sigma, sigma_data)
        level = sigma * (1 - gap)
        lowest = sde.kernel(torch.full_like(t[:1], sde.t_min)).snr.rsqrt()
        r = torch.where(level <= lowest, 0.0, sde.time(level.clamp_min(lowest) ** -2))
        # One that rounding leaves at t itself has no gap.
        return torch.maximum(torch.minimum(r, t), s), gap

    @torch.no_grad()
    def target(
        self, denoiser: Denoiser, x: Tensor, u: Tensor, t: Tensor, condition: Condition | None
    ) -> tuple[Tensor, Tensor]:
        """(x̃ (B, C, T), gap (B,)) for the states u (B, 1, C, T) at t (B,)."""
        sde = denoiser.sde
        s = self.end(sde, t)
        r, gap = self.earlier(sde, t, s, float64(denoiser.sigma_data).to(t))
        flow = Flow(sde, u, t)
        state = self.lead(flow, x, r, condition)
        flow.step(denoiser(state, r.clamp_min(sde.t_min), condition), s)
        return flow.implied, gap

    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        kernel = denoiser.sde.kernel(draw.t)
        u = kernel.sample(x, draw.eps)
        condition = condition if self.teacher is None else self.teacher.told(draw, condition)
        D = denoiser(u, draw.t, condition)
        target, gap = self.target(denoiser, x, u, draw.t, condition)
        error = mean_square(D - target)
        square = broadcast_like(self.weight(weight_inputs(denoiser, draw.t, kernel)), error) * error
        loss = (square + self.huber**2).sqrt() - self.huber
        return finish(loss / broadcast_like(gap, loss), denoiser, draw)

    @torch.no_grad()
    def validate(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        """w(t) |D - x̃|² with x̃ by 16 steps of the teacher's flow: it stays the same while the gap closes."""
        if self.teacher is None:
            return self.at(denoiser, x, draw, condition)
        return judged(self.teacher, denoiser, self.weight, x, draw, condition, self.end(denoiser.sde, draw.t))


def judged(
    teacher: Teacher, denoiser: Denoiser, weight: Weight, x: Tensor, draw: NoiseDraw, condition: Condition | None,
    end: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """w(t) |D - x̃|², (B,), x̃ by 16 steps of the teacher's flow to the times `end` (B,); to the sound by default."""
    sde = denoiser.sde
    kernel = sde.kernel(draw.t)
    u = kernel.sample(x, draw.eps)
    condition = teacher.told(draw, condition)
    flow = Flow(sde, u, draw.t)
    times = between(sde, draw.t, torch.zeros_like(draw.t) if end is None else end, JUDGED)
    flow.walk(lambda state, at: teacher(state, at, condition), times, second_order=True)
    error = mean_square(denoiser(u, draw.t, condition) - flow.implied)
    return broadcast_like(weight(weight_inputs(denoiser, draw.t, kernel)), error) * error


class ConsistencyDistillation(_Consistency):
    """D(u_t, t) ← D(u_r, r), u_r by the teacher's flow. Source: Song et al. 2023, algorithm 2.

    The target network is the student itself without a gradient (Song and Dhariwal 2024, § 3.2). It is to be heard by
    `ConsistencySampler`, or, with more than one segment, by DDIM on the same steps and grid.

    Args:
        teacher: a checkpoint, a run's folder, or the name of a model that comes with the program.
        guidance: weight of the teacher's classifier-free guidance, which the student has learned then; null for the
            teacher's own; two weights for a student that is told any weight between (`Network.guidance`; Meng et al.
            2023, section 3.1).
        substeps: steps of the teacher from t to r, of two calls each (DPM-Solver++(2S)).
        time: the law of t.
        weight: w, the weight of |D - x̃|²; KarrasWeight by default.
        closer: q; the gap 1 - σ_r / σ_t is 1 / q at first, and 1 / q as much with each stage.
        every: optimizer steps of a stage.
        stages: stages, the last of which does not end.
        wider: how much wider the gap is at quiet noise.
        huber: c, the root of the weighted squared error below which it counts squared; above, as it is.
        segments: parts of the noise levels, each with an end of its own.
        grid: where these begin; JumpGrid by default.
        time_sampling: as for Loss.
    """

    def __init__(
        self,
        teacher: str,
        guidance: Weights = None,
        substeps: int = 1,
        time: TimeSampler | None = None,
        weight: Weight | None = None,
        closer: float = 2.0,
        every: int = 1000,
        stages: int = 2,
        wider: float = 0.0,
        huber: float = 0.01,
        segments: int = 1,
        grid: Grid | None = None,
        time_sampling: TimeSampling = "stratified",
    ):
        if substeps < 1:
            raise ValueError(f"substeps = {substeps}: the teacher takes at least 1")
        super().__init__(
            Teacher(teacher, guidance), time, weight, closer, every, stages, wider, huber, segments, grid, time_sampling
        )
        self.substeps = substeps

    def lead(self, flow: Flow, x: Tensor, r: Tensor, condition: Condition | None) -> Tensor:
        times = between(flow.sde, flow.t, r, self.substeps)
        return flow.halve(lambda u, t: self.teacher(u, t, condition), times)


class ConsistencyTuning(_Consistency):
    """D(u_t, t) ← D(u_r, r), both of one sound and one noise: no teacher is asked. Source: Geng et al. 2024.

    Its gap must close for the least of it to be the flow's end; a diffusion model, D(u_t, t) ← x, is where it begins.
    It is unguided: guide by more classes hidden, or distil.

    Args:
        teacher: whose weights it starts from, and whose flow validation holds it to; null for none.
        time: the law of t.
        weight: w, the weight of |D - x̃|²; KarrasWeight by default.
        closer: q; the gap 1 - σ_r / σ_t is 1 / q at first, and 1 / q as much with each stage.
        every: optimizer steps of a stage.
        stages: stages, the last of which does not end.
        wider: how much wider the gap is at quiet noise; 8 is k of the source.
        huber: c, as for ConsistencyDistillation.
        segments, grid: as for ConsistencyDistillation.
        time_sampling: as for Loss.
    """

    def __init__(
        self,
        teacher: str | None = None,
        time: TimeSampler | None = None,
        weight: Weight | None = None,
        closer: float = 2.0,
        every: int = 1000,
        stages: int = 8,
        wider: float = 8.0,
        huber: float = 0.01,
        segments: int = 1,
        grid: Grid | None = None,
        time_sampling: TimeSampling = "stratified",
    ):
        super().__init__(
            Teacher(teacher, 1.0) if teacher else None,
            time,
            weight,
            closer,
            every,
            stages,
            wider,
            huber,
            segments,
            grid,
            time_sampling,
        )

    def lead(self, flow: Flow, x: Tensor, r: Tensor, condition: Condition | None) -> Tensor:
        flow.step(x, r)
        return flow.state

"""Progressive distillation: some steps of the teacher are one of the student."""

from __future__ import annotations

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.distillation.flow import Flow, scalar
from diffwave_sde.distillation.teacher import Teacher, Weights
from diffwave_sde.loss import KarrasWeight, NoiseDraw, Objective, TimeSampler, Weight
from diffwave_sde.loss.objectives import TimeSampling, finish, mean_square, weight_inputs
from diffwave_sde.samplers import Grid, JumpGrid, Sampler
from diffwave_sde.sde import SDE, broadcast_like, float64


class GridTime(TimeSampler):
    """t uniform on the times of a sampler's grid.

    Args:
        steps: times on the grid.
        grid: the grid; JumpGrid by default.
    """

    discrete = True

    def __init__(self, steps: int = 4, grid: Grid | None = None):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps = {steps}: a student takes at least 1")
        self.steps, self.grid = steps, grid or JumpGrid()

    def count(self, sde: SDE) -> int:
        return self.steps

    def place(self, sde: SDE, t: Tensor) -> Tensor:
        """Which of the times, counted from t_max, each of t (B,) is: (B,), long."""
        return (self.grid(sde, self.steps).to(t.device) - t[:, None]).abs().argmin(1)

    def forward(self, sde: SDE, quantile: Tensor) -> Tensor:
        # From t_min up, as all laws go.
        times = self.grid(sde, self.steps).flip(0).to(quantile.device)
        return times[(float64(quantile) * self.steps).long().clamp(0, self.steps - 1)]


class ProgressiveDistillation(Objective):
    """|D - x̃|² at the student's own times: one step of the student ends where several of the teacher's do.

    The student's N times are those of a grid that jumps to the sound from the last of them; the teacher's `substeps` N
    lie between. x̃ is the closed form of Salimans and Ho 2022, algorithm 2 and appendix G, who take two substeps a round
    and make the student the next round's teacher; more at once save the rounds. It is to be heard by
    DDIM(steps, grid), of the same steps and grid.

    Args:
        teacher: a checkpoint, a run's folder, or the name of a model that comes with the program.
        steps: N, steps of the student, and network calls.
        substeps: steps of the teacher for one of the student.
        grid: where both lie; JumpGrid by default.
        second_order: whether the teacher's steps are DPM-Solver++(2M)'s, as good as twice as many of DDIM.
        guidance: weight of the teacher's classifier-free guidance, which the student has learned then; null for the
            teacher's own; two weights for a student that is told any weight between (`Network.guidance`; Meng et al.
            2023, section 3.1).
        weight: the weight of |D - x̃|²; KarrasWeight by default.
        time_sampling: how a batch is spread over the N times.
    """

    def __init__(
        self,
        teacher: str,
        steps: int = 4,
        substeps: int = 2,
        grid: Grid | None = None,
        second_order: bool = False,
        guidance: Weights = None,
        weight: Weight | None = None,
        time_sampling: TimeSampling = "stratified",
    ):
        super().__init__(GridTime(steps, grid), time_sampling)
        if substeps < 2:
            raise ValueError(f"substeps = {substeps}: a step of the student stands for at least 2 of the teacher's")
        self.teacher = Teacher(teacher, guidance)
        self.steps, self.substeps, self.second_order = steps, substeps, second_order
        self.weight = weight or KarrasWeight()

    def begin(self, denoiser: Denoiser, sampler: Sampler, started: bool = False) -> None:
        scalar(denoiser.sde, type(self).__name__)
        self._nodes(denoiser.sde)
        sampler = sampler.resolve(denoiser.sde)
        given = getattr(sampler, "grid", None)
        own = self.time.grid(denoiser.sde, self.steps)
        if given is None or sampler.steps != self.steps or not torch.allclose(given(denoiser.sde, self.steps), own):
            raise ValueError(
                f"the student learns {self.steps} steps, and {type(sampler).__name__} takes others: set "
                f"--model.sampler=DDIM --model.sampler.steps={self.steps} and --model.sampler.grid to the loss's grid"
            )
        if getattr(sampler, "eta", 0.0):
            raise ValueError(
                f"the student learns where the flow ends, and eta = {sampler.eta:g} adds noise to it: set "
                "--model.sampler.eta=0"
            )
        self.teacher.start(denoiser, started)

    def _nodes(self, sde: SDE) -> Tensor:
        """The teacher's times, with the end: (N · substeps + 1,)."""
        grid, count = self.time.grid, self.steps * self.substeps
        own = grid(sde, self.steps)
        if grid.flexible:
            nodes = grid(sde, count)
            if torch.allclose(nodes[:: self.substeps], own, rtol=1e-6):
                return torch.cat((nodes, nodes.new_zeros(1)))
        # Equal steps of log σ within each step of the student, the last of which goes down to t_min.
        level = sde.kernel(torch.cat((own, own.new_tensor([sde.t_min])))).snr.log()
        share = torch.arange(self.substeps, dtype=level.dtype) / self.substeps
        between = level[:-1, None] + level.diff()[:, None] * share
        nodes = torch.where(share == 0, own[:, None], sde.time(between.exp().flatten()).reshape(between.shape))
        return torch.cat((nodes.flatten(), nodes.new_zeros(1)))

    @torch.no_grad()
    def target(
        self, sde: SDE, u: Tensor, t: Tensor, condition: Condition | None, teacher: BaseDenoiser | None = None
    ) -> Tensor:
        """x̃ (B, C, T) for the states u (B, 1, C, T) at the student's times t (B,)."""
        first = self.time.place(sde, t) * self.substeps
        nodes = self._nodes(sde).to(t.device)
        times = torch.stack([nodes[first + k] for k in range(1, self.substeps + 1)])
        flow = Flow(sde, u, t)
        flow.walk(lambda state, at: (teacher or self.teacher)(state, at, condition), times, self.second_order)
        return flow.implied

    def at(self, denoiser: Denoiser, x: Tensor, draw: NoiseDraw, condition: Condition | None = None) -> Tensor:
        kernel = denoiser.sde.kernel(draw.t)
        u = kernel.sample(x, draw.eps)
        condition = self.teacher.told(draw, condition)
        target = self.target(denoiser.sde, u, draw.t, condition)
        error = mean_square(denoiser(u, draw.t, condition) - target)
        weight = broadcast_like(self.weight(weight_inputs(denoiser, draw.t, kernel)), error)
        return finish(weight * error, denoiser, draw)

r"""Splittings of the reverse-time SDE into a part that is known and the score's share of it.

A process with a stationary law N(0, Σ∞) runs in it backwards as forwards, but for the sign of the velocity. So

    du = [-F u - g gᵀ Σ∞⁻¹ u] dt + g dW      (A)   is the process itself, seen in a mirror: an exact step of any length
    du = g gᵀ [∇ log p + Σ∞⁻¹ u] dt          (B)   is what the data add, one Euler step

make up the reverse-time SDE. Source: Dockhorn et al. 2022, § 3.3 and appendix D (SSCS).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.samplers.base import GridSampler, SamplingState, rows
from diffwave_sde.samplers.grids import Grid
from diffwave_sde.sde import SDE, apply, cholesky, embed_waveform

SPLITTINGS = ("ABA", "BAB", "ABBA")


class SSCS(GridSampler):
    """The symmetric splitting sampler, for processes with a stationary law: CLD, VP and its kin. Order 1.

    The known part is taken over the exact integral of β between the two times of each half of a step. Source: Dockhorn
    et al. 2022, section 3.3 and appendix D.

    Args:
        steps: steps; of ABA each needs one call, of BAB and ABBA two.
        grid: where the steps lie.
        splitting: ABA is Dockhorn's: half of the known part, the score in the middle, the other half. BAB has the score
            at both ends; ABBA takes it in two halves.
    """

    def __init__(self, steps: int = 150, grid: Grid | None = None, splitting: Literal["ABA", "BAB", "ABBA"] = "ABA"):
        super().__init__(steps, grid)
        if splitting not in SPLITTINGS:
            raise ValueError(f"splitting = {splitting!r}: choose one of {', '.join(SPLITTINGS)}")
        self.splitting = splitting

    def supports(self, sde: SDE) -> bool:
        return sde.stationary is not None

    def intermediate_times(self, sde: SDE, times: Tensor) -> Tensor:
        return (times[1:] + times[:-1]) / 2

    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        sde = denoiser.sde
        start, end, middle = times[:-1], times[1:], self.intermediate_times(sde, times)
        mirror = torch.ones(sde.blocks, dtype=times.dtype)
        mirror[1:] = -1
        mirror = mirror[:, None] * mirror
        # The known part is exact over any time: the second half of a step and the first of the next are one.
        late = start if self.splitting == "BAB" else torch.cat((times[:1], middle[:-1]))
        early = end if self.splitting == "BAB" else middle
        phi, Q = sde.transition(early, late)
        known = [mirror * phi, cholesky(mirror * Q)]
        # ∫ g gᵀ over the step, by Simpson: exact for a β of the third degree.
        g2 = [sde.diffusion(t).square() for t in (start, middle, end)]
        strength = torch.diag_embed((g2[0] + 4 * g2[1] + g2[2]) / 6 * (start - end)[:, None])
        if self.splitting != "ABA":
            strength = strength / 2
        inverse = torch.diag(1 / torch.tensor(sde.stationary, dtype=times.dtype))
        data = []
        for t in (start, end) if self.splitting == "BAB" else (middle,):
            kernel = sde.kernel(t)
            data += [(strength @ kernel.matched[..., None]).squeeze(-1), strength @ (inverse - kernel.precision)]
        plan = rows(*known, *data)
        if self.splitting != "BAB":
            phi, Q = sde.transition(times[-1:], middle[-1:])
            plan[-1] += (mirror * phi, cholesky(mirror * Q))
        return plan

    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        def known(u: Tensor, k: int = 0) -> Tensor:
            return apply(coefficients[k], u) + apply(coefficients[k + 1], state.noise(u))

        def data(u: Tensor, k: int, node: int) -> Tensor:
            return u + embed_waveform(coefficients[k], state(u, node)) + apply(coefficients[k + 1], u)

        if self.splitting == "BAB":
            return data(known(data(u, 2, i)), 4, i + 1)
        # From the middle of the last step to that of this one; after the last, home.
        u = data(known(u), 2, self.steps + i)
        if self.splitting == "ABBA":
            u = data(u, 2, self.steps + i)
        return known(u, 4) if i == self.steps - 2 else u

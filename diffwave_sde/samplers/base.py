"""What all samplers share: the grid, the count of network calls, progress, and the noise-free last step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.random import Generator
from diffwave_sde.samplers.grids import Grid, KarrasGrid
from diffwave_sde.sde import SDE

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""

Call = Callable[[Tensor, int], Tensor]
"""The denoiser at a point of the grid: (u (B, S, C, T), i) -> D (B, C, T)."""


class Sampler(ABC):
    """A rule that takes a state at t_max to a sound.

    A family gives `plan`, what depends on time alone, computed once in float64; and `step`, which does the rest.

    Args:
        steps: steps, the last of which is the noise-free denoising at t_min.
        grid: where the steps lie; Karras's spacing by default.

    Attributes:
        order: the rate at which the error falls with the step size.
        nfe: network calls per sound of the last run.
    """

    order: int = 1

    def __init__(self, steps: int = 50, grid: Grid | None = None):
        if steps < 2:
            raise ValueError(f"steps = {steps}: a sampler needs at least 2")
        self.steps, self.grid = steps, grid or KarrasGrid()
        self.nfe = 0

    def takes(self, sde: SDE) -> bool:
        """Whether the mathematics of this sampler covers the process."""
        return True

    @abstractmethod
    def plan(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        """The coefficients of each of the len(times) - 1 steps, each with a leading axis of length 1, float64."""

    @abstractmethod
    def step(self, call: Call, u: Tensor, i: int, coefficients: tuple[Tensor, ...], generator: Generator) -> Tensor:
        """The state at times[i + 1] from the state u (B, S, C, T) at times[i]."""

    @final
    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        u: Tensor,
        condition: Condition | None = None,
        generator: Generator = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Sounds (B, C, T) from the states u (B, S, C, T) at t_max.

        Raises:
            ValueError: if the process is one that this sampler cannot take.
        """
        sde = denoiser.sde
        if not self.takes(sde):
            able = sorted(c.__name__ for c in _leaves(Sampler) if c is not type(self) and c().takes(sde))
            raise ValueError(
                f"{type(self).__name__} cannot take the process {type(sde).__name__} "
                f"({sde.blocks} block{'s' * (sde.blocks > 1)}); these can: {', '.join(able)}"
            )
        if u.ndim != 4 or u.shape[1] != sde.blocks:
            raise ValueError(f"state of shape {tuple(u.shape)}: {type(sde).__name__} needs (B, {sde.blocks}, C, T)")
        times = self.grid(sde, self.steps)
        # Cast and moved once, so that the loop neither computes in float64 nor waits for the device.
        plan = [tuple(c.to(device=u.device, dtype=u.dtype) for c in row) for row in self.plan(sde, times)]
        clock = times.to(u.device if u.device.type != "mps" else "cpu")[:, None].expand(-1, len(u)).unbind()
        self.nfe = 0

        def call(state: Tensor, i: int) -> Tensor:
            self.nfe += 1
            return denoiser(state, clock[i], condition)

        for i, coefficients in enumerate(plan):
            u = self.step(call, u, i, coefficients, generator)
            if progress is not None:
                progress(i + 1, self.steps)
        x = call(u, self.steps - 1)  # the noise left at t_min would be heard as hiss
        if progress is not None:
            progress(self.steps, self.steps)
        return x


def _leaves(cls: type) -> list[type]:
    below = cls.__subclasses__()
    return [leaf for c in below for leaf in _leaves(c)] if below else [cls]

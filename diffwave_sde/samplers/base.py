"""What all samplers share: the count of network calls, progress, and the noise-free last step."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers.grids import Grid, KarrasGrid
from diffwave_sde.sde import SDE

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""


Linear = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""(A, a, b, c) of a step u ← A u + a D + b (D - D before) + c ε; None for a part that it has not."""


@dataclass
class SamplingState:
    """One run of a sampler: what its steps may ask for.

    denoiser, condition, generator: as given to the sampler.
    past: D of earlier calls, the last one first, for the methods that keep them.
    calls: network calls so far, of each sound.
    drawn: noise that was made beforehand, which is taken in place of fresh noise.
    """

    denoiser: BaseDenoiser
    condition: Condition | None
    generator: Generator
    nodes: Callable[[Tensor, int, Condition | None], tuple[Tensor, Tensor | None]] | None = None
    past: list[Tensor] = field(default_factory=list)
    calls: int = 0
    drawn: Iterator[Tensor] | None = None

    def predict(self, u: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        """The denoiser at the i-th node of the plan: u (B, S, C, T) -> D (B, C, T), place of the variance or None."""
        self.calls += 1
        return self.nodes(u, i, self.condition)

    def __call__(self, u: Tensor, i: int) -> Tensor:
        """D alone."""
        return self.predict(u, i)[0]

    def at(self, u: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """D at any times t (B,), of the examples `rows`; the caller counts."""
        condition = self.condition
        if rows is not None and condition is not None:
            condition = condition[rows]
        return self.denoiser(u, t, condition)

    def noise(self, u: Tensor) -> Tensor:
        """Standard normal numbers like u, each example's from its own generator."""
        return randn(u.shape, self.generator, u.dtype, u.device) if self.drawn is None else next(self.drawn)


class Sampler(ABC):
    """A rule that takes a state at t_max to a sound.

    Attributes:
        order: the rate at which the error falls with the step size.
        steps: its steps; None where it chooses them itself.
        on_grid: whether its steps lie on a grid, `grid`, so that they may begin or end elsewhere.
        is_linear: whether a step is u ← A u + a D + b (D - D before) + c ε, which a table of numbers can hold.
        nfe: network calls per sound of the last run.
    """

    order: int = 1
    steps: int | None = None
    on_grid: bool = False
    is_linear: bool = False
    nfe: int = 0

    def supports(self, sde: SDE) -> bool:
        """Whether the mathematics of this sampler covers the process."""
        return True

    def resolve(self, sde: SDE) -> Sampler:
        """The sampler that runs on this process: itself, where it does not choose another one."""
        return self

    @abstractmethod
    def solve(self, state: SamplingState, u: Tensor, progress: Progress | None) -> Tensor:
        """The sounds (B, C, T) from the states u (B, S, C, T) at t_max, the last call without noise included."""

    @final
    @torch.no_grad()
    def __call__(
        self,
        denoiser: BaseDenoiser,
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
        if not self.supports(sde):
            able = sorted(c.__name__ for c in _leaves(Sampler) if c is not type(self) and c().supports(sde))
            raise ValueError(
                f"{type(self).__name__} cannot take the process {type(sde).__name__} "
                f"({sde.blocks} block{'s' * (sde.blocks > 1)}); these can: {', '.join(able)}"
            )
        if u.ndim != 4 or u.shape[1] != sde.blocks:
            raise ValueError(f"state of shape {tuple(u.shape)}: {type(sde).__name__} needs (B, {sde.blocks}, C, T)")
        state = SamplingState(denoiser, condition, generator)
        x = self.solve(state, u, progress)
        self.nfe = state.calls
        return x


class GridSampler(Sampler):
    """A sampler whose steps lie on a grid.

    A family gives `plan`, what depends on time alone, computed once in float64; and `step`, which does the rest.

    Args:
        steps: steps, the last of which is the noise-free denoising at t_min.
        grid: where the steps lie; Karras's spacing by default.

    Attributes:
        fewest: the least number of steps.
        of_means: whether D is to be a mean, E[x | u]; else it is to be the end of the flow, a consistency function.
    """

    fewest: int = 2
    of_means: bool = True

    on_grid = True

    def __init__(self, steps: int = 50, grid: Grid | None = None):
        if steps < self.fewest:
            raise ValueError(f"steps = {steps}: a sampler needs at least {self.fewest}")
        self.steps, self.grid = steps, grid or KarrasGrid()

    def intermediate_times(self, sde: SDE, times: Tensor) -> Tensor:
        """Further times at which the network is called: the nodes len(times), len(times) + 1, ..."""
        return times[:0]

    @abstractmethod
    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        """The coefficients of each of the len(times) - 1 steps, each with a leading axis of length 1, float64."""

    def linear(self, coefficients: tuple[Tensor, ...]) -> Linear:
        """A step of the plan as u ← A u + a D + b (D - D before) + c ε, where `is_linear`."""
        raise TypeError(f"the steps of {type(self).__name__} are not of that form")

    @abstractmethod
    def step(self, state: SamplingState, u: Tensor, i: int, coefficients: tuple[Tensor, ...]) -> Tensor:
        """The state at times[i + 1] from the state u (B, S, C, T) at times[i]."""

    @final
    def ready(self, state: SamplingState, u: Tensor) -> list[tuple[Tensor, ...]]:
        """The coefficients of the steps, like u (B, S, C, T); and `state.nodes`.

        All that depends on time alone is computed here, so that the loop neither computes in float64 nor waits for the
        device.
        """
        sde = state.denoiser.sde
        times = self.grid(sde, self.steps)
        state.nodes = state.denoiser.nodes(torch.cat((times, self.intermediate_times(sde, times))), u)
        return [tuple(c.to(device=u.device, dtype=u.dtype) for c in row) for row in self.plan(state.denoiser, times)]

    @final
    def solve(self, state: SamplingState, u: Tensor, progress: Progress | None) -> Tensor:
        for i, coefficients in enumerate(self.ready(state, u)):
            u = self.step(state, u, i, coefficients)
            if progress is not None:
                progress(i + 1, self.steps)
        x = state(u, self.steps - 1)  # the noise left at t_min would be heard as hiss
        if progress is not None:
            progress(self.steps, self.steps)
        return x


class PredictorSampler(GridSampler):
    """A sampler that repeats or corrects the steps of another one, the predictor, at some cost in calls.

    A family gives `own`, its own coefficients, which stand before the predictor's in each row of the plan; and `step`.

    Args:
        steps: steps.
        grid: where they lie.
        predictor: the sampler whose steps are taken; its own steps and grid are unused.
    """

    def __init__(self, steps: int, grid: Grid | None, predictor: GridSampler):
        super().__init__(steps, grid)
        self.predictor = regridded(predictor, self.steps, self.grid)

    def supports(self, sde: SDE) -> bool:
        return self.predictor.supports(sde)

    @final
    def intermediate_times(self, sde: SDE, times: Tensor) -> Tensor:
        return self.predictor.intermediate_times(sde, times)

    @abstractmethod
    def own(self, sde: SDE, times: Tensor) -> list[tuple[Tensor, ...]]:
        """What it takes itself of each of the len(times) - 1 steps, as `rows` gives it."""

    @final
    def plan(self, denoiser: BaseDenoiser, times: Tensor) -> list[tuple[Tensor, ...]]:
        both = zip(self.own(denoiser.sde, times), self.predictor.plan(denoiser, times), strict=True)
        return [(*own, *predictors) for own, predictors in both]


def regridded(sampler: GridSampler, steps: int, grid: Grid) -> GridSampler:
    """The same sampler on other steps, and with it those whose steps it takes: their further nodes begin after them."""
    other = copy.copy(sampler)
    other.steps, other.grid = steps, grid
    if isinstance(other, PredictorSampler):
        other.predictor = regridded(other.predictor, steps, grid)
    return other


def rows(*coefficients: Tensor) -> list[tuple[Tensor, ...]]:
    """Coefficients (N - 1, ...) of N - 1 steps, step by step, each with a leading axis of length 1."""
    return list(zip(*[c[:, None] for c in coefficients], strict=True))


def _leaves(cls: type) -> list[type]:
    below = cls.__subclasses__()
    return [leaf for c in below for leaf in _leaves(c)] if below else [cls]

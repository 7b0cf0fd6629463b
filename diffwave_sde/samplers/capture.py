"""A sampling that is captured step by step and replayed, so that the host does not hold a GPU up.

A call of a small network is a few hundred kernels of microseconds each: launched one by one from Python they take
longer than they run. Here each step of a sampler is a CUDA graph, launched at once; the noise is drawn anew and put
where the graph reads it. Nothing but the numbers may differ from one sampling to the next: so the number of sounds,
their length, the grid and the guidance are settled when it is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers.base import GridSampler, Progress, Sampler, SamplingState


class Capture(Protocol):
    """What runs functions once, and can make the tensors of their answers hold the answers again."""

    def warm(self) -> AbstractContextManager:
        """Where functions are run before the first of them is captured."""

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """The function's answer, and what makes that tensor hold the answer to what its arguments hold by then."""


class CudaGraphs:
    """Captures functions as CUDA graphs that share their memory: they are to be replayed in the order of capture.

    Args:
        device: the GPU.

    Raises:
        ValueError: if the device is none.
    """

    def __init__(self, device: torch.device):
        if device.type != "cuda":
            raise ValueError(
                f"CUDA graphs are captured on a CUDA GPU, and this is the {device.type}: sample without them"
            )
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    @contextmanager
    def warm(self) -> Iterator[None]:
        """On the stream of the graphs, where libraries choose their algorithms and take their memory."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        graph = torch.cuda.CUDAGraph()
        with self.warm():
            # Other threads, such as those that fetch data, may go on allocating.
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                out = function()
            finally:
                graph.capture_end()
        return out, graph.replay


class CapturedSampler:
    """A sampler's steps, captured for a number of sounds, and replayed for every sampling.

    The sounds are those that the sampler makes by itself; the first sampling takes about three times as long, since it
    is made twice.

    Args:
        denoiser: what is sampled from, as it is given to a sampler.
        sampler: one whose steps lie on a grid.
        graphs: what the steps are captured by; CUDA graphs by default.

    Raises:
        ValueError: if the sampler chooses its steps by what it meets, or there is no GPU to capture on.
    """

    def __init__(self, denoiser: BaseDenoiser, sampler: Sampler, graphs: Capture | None = None):
        sampler = sampler.resolve(denoiser.sde)
        if sampler.steps is None:
            raise ValueError(
                f"{type(sampler).__name__} chooses its steps by what it meets, so they cannot be captured: take "
                "another sampler, or sample without"
            )
        self.denoiser, self.sampler = denoiser, sampler
        self.graphs = graphs or CudaGraphs(denoiser.sigma_data.device)
        self.steps: list[tuple[Callable[[], object], list[Tensor]]] = []
        """What replays each step, the last call of the network being one, and the noise that it reads."""

    @torch.no_grad()
    def __call__(
        self, u: Tensor, condition: Condition | None, generator: Generator, progress: Progress | None = None
    ) -> Tensor:
        """Sounds (B, C, T) from the states u (B, S, C, T) at t_max, as a sampler makes them.

        Raises:
            ValueError: if they are not as many, or not as long, as those that were captured.
        """
        if not self.steps:
            with torch.inference_mode(False):  # what is made in inference mode could not be written to outside of it
                self.u = u.clone()
                self.condition = condition and Condition(**{k: x.clone() for k, x in _tensors(condition).items()})
                self._capture(self.sampler, self.u, self.condition)
        ours, theirs = _shapes(self.u, self.condition), _shapes(u, condition)
        if ours != theirs:
            raise ValueError(f"captured for {ours}, and not for {theirs}: capture another sampling")
        self.u.copy_(u)
        for name, x in _tensors(self.condition).items():
            x.copy_(_tensors(condition)[name])
        for i, (replay, noise) in enumerate(self.steps):
            for buffer in noise:
                buffer.copy_(randn(buffer.shape, generator, buffer.dtype, buffer.device))
            replay()
            if progress is not None:
                progress(i + 1, len(self.steps))
        return self.x.clone()

    def _capture(self, sampler: GridSampler, u: Tensor, condition: Condition | None) -> None:
        state = SamplingState(self.denoiser, condition, None)
        plan = sampler.ready(state, u)
        self._read = state, plan  # by the graphs, which hold addresses alone

        def step(i: int, u: Tensor) -> Tensor:
            return sampler.step(state, u, i, plan[i]) if i < len(plan) else state(u, sampler.steps - 1)

        here, noises = u, []
        with self.graphs.warm():
            for i in range(len(plan) + 1):
                noises.append([])
                state.drawn = _places(u, noises[i])
                here = step(i, here)
        state.past.clear()
        state.calls, here = 0, u
        steps = []
        for i, noise in enumerate(noises):
            state.drawn = iter(noise)
            here, replay = self.graphs(partial(step, i, here))
            steps.append((replay, noise))
        self.x, self.steps, sampler.nfe = here, steps, state.calls


def _places(u: Tensor, places: list[Tensor]) -> Iterator[Tensor]:
    """A place for each noise like u that is asked for, also put into the list."""
    while True:
        places.append(torch.zeros_like(u))
        yield places[-1]


def _tensors(condition: Condition | None) -> dict[str, Tensor]:
    return {} if condition is None else {name: x for name, x in vars(condition).items() if x is not None}


def _shapes(u: Tensor, condition: Condition | None) -> dict[str, tuple[int, ...]]:
    return {"state": tuple(u.shape), **{name: tuple(x.shape) for name, x in _tensors(condition).items()}}

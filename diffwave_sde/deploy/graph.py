"""The network with its preconditioning as one graph of tensors, and a sampler as a table of numbers.

A graph answers D(u, t): from u (B, S, 1, T) float32, t (B,) float64 and label (B,) int64, negative for none, D
(B, 1, T). B is open, T is fixed. What a sampler does between two calls is linear, with numbers that depend on time
alone:

    u ← A u + a D + b (D - D before) + c ε

so that a table of them and a loop of a few lines are a whole sampling; `sample.py` beside this file is that loop.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.guidance import Guidance
from diffwave_sde.samplers import Sampler

STEPS = (10, 20, 35, 50)  # of the tables that go along, beside the model's own number
FEW = (1, 2, 4, 8)  # those where a grid jumps to the sound, as that of a distilled model does


class Graph(nn.Module):
    """The denoiser as a function of tensors alone; `weight` is of the guidance that its network is told, if it is."""

    def __init__(self, denoiser: Denoiser, weight: float = 1.0):
        super().__init__()
        self.weight = weight if denoiser.net.guidance else None
        # Without the weak one, which is no part of D; it has a graph of its own.
        self.denoiser = copy.copy(denoiser)
        self.denoiser._modules = {**denoiser._modules, "weak": None}

    def forward(self, u: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """u (B, S, 1, T), t (B,), label (B,) -> D (B, 1, T)."""
        told = None if self.weight is None else u.new_full((u.shape[0],), self.weight)
        return self.denoiser(u, t, Condition(label=label, guidance=told))


def trace(denoiser: Denoiser, length: int, weight: float = 1.0) -> torch.export.ExportedProgram:
    """The program of `Graph` for sounds of `length` samples, in float32, any number of them at once."""
    example = (
        torch.zeros(2, denoiser.sde.blocks, 1, length),
        torch.ones(2, dtype=torch.float64),
        torch.tensor([0, -1]),
    )
    many = {0: torch.export.Dim("batch", min=1, max=2**16)}
    graph = Graph(denoiser, weight).eval()
    with torch.no_grad():
        graph(*example)  # once in earnest, so that what a process keeps for later is no tensor of the trace
        return torch.export.export(graph, example, dynamic_shapes=(many,) * 3)


def save_program(denoiser: Denoiser, length: int, file: Path, weight: float = 1.0) -> None:
    """Writes what `torch.export.load` reads, on any machine with PyTorch."""
    torch.export.save(trace(denoiser, length, weight), file)


def save_onnx(denoiser: Denoiser, length: int, file: Path, weight: float = 1.0) -> None:
    """Writes an ONNX file, weights included.

    Raises:
        ValueError: without the packages that it takes.
    """
    try:
        import onnxscript  # noqa: F401  torch.onnx writes with it
    except ImportError as error:
        raise ValueError(
            f"ONNX needs a package that is not here ({error}): pip install 'diffwave-sde[onnx]'"
        ) from error
    # Of operators that a network of ours has not.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        trace(denoiser, length, weight), dynamo=True, input_names=["u", "t", "label"], output_names=["D"], verbose=False
    )
    program.save(str(file), external_data=False)


def plan(denoiser: Denoiser, sampler: Sampler, guidance: Guidance) -> dict[str, Any]:
    """A sampler as a table: times (N,), and for each of N - 1 steps A (S, S), a (S,), b (S,) and c (S, S).

    The sounds are D at the last of the times. `guided` tells at which times the classifier-free guidance acts, and
    `auto` the autoguidance.

    Raises:
        ValueError: if the sampler is none whose steps are of that form.
    """
    sampler = sampler.resolve(denoiser.sde)
    if not sampler.is_linear:
        raise ValueError(
            f"{type(sampler).__name__} cannot be written as a table: train with, or name in config.yaml, one of "
            "ConsistencySampler, DefaultSampler, DDIM, DPMSolver2M and DPMSolverSDE"
        )
    times = sampler.grid(denoiser.sde, sampler.steps)
    blocks = denoiser.sde.blocks
    none, still = torch.zeros(blocks), torch.zeros(blocks, blocks)
    steps = []
    for i, row in enumerate(sampler.plan(denoiser, times)):
        A, a, b, c = sampler.linear(tuple(x[0] for x in row))
        b, c = none if b is None or i == 0 else b, still if c is None else c
        steps.append({"A": A.tolist(), "a": a.tolist(), "b": b.tolist(), "c": c.tolist()})
    parts = {"guided": guidance.by_class(denoiser), "auto": guidance.by_weak(denoiser, denoiser.weak)}
    acts = {name: part.acts(times).tolist() for name, part in parts.items()}
    return {"sampler": type(sampler).__name__, "times": times.tolist(), "steps": steps, **acts}


def sampling(
    denoiser: Denoiser, sampler: Sampler, guidance: Guidance | None, taught: int | None = None
) -> dict[str, Any]:
    """All the numbers that a sampling takes beside the graph.

    prior: (S, S), what white noise is multiplied by for the first u.
    guidance: the weight w; where a plan is guided, D is D + (w - 1) (D - D without the class).
    auto: the weight w; where a plan says so, that D is D + (w - 1) (D - D of the weak graph).
    plans: `plan` by its number of steps; `default` is the model's own, and the only one where `taught` is told.
    """
    sampler = sampler.resolve(denoiser.sde)
    guidance = (guidance or Guidance(1.0)).supported_by(denoiser)
    if denoiser.net.guidance:  # the graph holds the weight that it is told
        guidance = replace(guidance, weight=1.0)
    plans = {str(sampler.steps): plan(denoiser, sampler, guidance)}
    if sampler.grid.flexible and taught is None:
        few = sampler.grid.fewest == 1
        for steps in (n for n in (FEW if few else STEPS) if n >= sampler.fewest):
            other = copy.copy(sampler)
            other.steps = steps
            plans[str(steps)] = plan(denoiser, other, guidance)
    last = torch.tensor([denoiser.sde.t_max], dtype=torch.float64)
    return {
        "prior": denoiser.sde.kernel(last).L[0].tolist(),
        "guidance": guidance.weight,
        "auto": guidance.auto,
        "default": sampler.steps,
        "plans": plans,
    }

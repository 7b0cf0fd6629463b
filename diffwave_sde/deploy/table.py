"""A sampler as a table of numbers, and all the numbers that a sampling takes beside the graphs.

What a sampler does between two calls of the network is linear, with numbers that depend on time alone:

    u ← A u + a D + b (D - D before) + c ε

so that a table of them and a loop of a few lines are a whole sampling; `sample.py` beside this file is that loop.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any

import torch

from diffwave_sde.cascade import CascadeModel, stopped
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.guidance import Guidance
from diffwave_sde.samplers import Sampler

STEPS = (10, 20, 35, 50)  # of the tables that go along, beside the model's own number
FEW = (1, 2, 4, 8)  # those where a grid jumps to the sound, as that of a distilled model does


def plan(denoiser: BaseDenoiser, sampler: Sampler, guidance: Guidance, level: float | None = None) -> dict[str, Any]:
    """A sampler as a table: times (N,), and for each of N - 1 steps A (S, S), a (S,), b (S,) and c (S, S).

    The sounds are D at the last of the times. `guided` tells at which times the classifier-free guidance acts, and
    `auto` the autoguidance.

    Args:
        denoiser: whose the steps are.
        sampler: the sampler.
        guidance: as far as the denoiser has the means for it.
        level: noise level σ that the sampling is stopped at: then there are N steps, and the sounds are the state after
            the last of them.

    Raises:
        ValueError: if the sampler is none whose steps are of that form, or it is not stopped at that level.
    """
    sde = denoiser.sde
    sampler = sampler.resolve(sde)
    if not sampler.is_linear:
        raise ValueError(
            f"{type(sampler).__name__} cannot be written as a table: train with, or name in config.yaml, one of "
            "ConsistencySampler, DefaultSampler, DDIM, DPMSolver2M and DPMSolverSDE"
        )
    if level is not None:
        sampler = stopped(sampler, sde, level)
    times = sampler.grid(sde, sampler.steps)
    none, still = torch.zeros(sde.blocks), torch.zeros(sde.blocks, sde.blocks)
    steps = []
    for i, row in enumerate(sampler.plan(denoiser, times)):
        A, a, b, c = sampler.linear(tuple(x[0] for x in row))
        steps.append([A, a, none if b is None or i == 0 else b, still if c is None else c])
    if level is not None:  # x + σ n of u = M x + ...
        steps[-1] = [x / sde.kernel(times[-1:]).M.squeeze() for x in steps[-1]]
        times = times[:-1]
    parts = {"guided": guidance.by_class(denoiser), "auto": guidance.by_weak(denoiser, denoiser.weak)}
    return {
        "sampler": type(sampler).__name__,
        "times": times.tolist(),
        "steps": [{name: x.tolist() for name, x in zip("Aabc", step, strict=True)} for step in steps],
        **{name: part.acts(times).tolist() for name, part in parts.items()},
    }


def sampling(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    guidance: Guidance | None,
    taught: int | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    """All the numbers that a sampling takes beside the graph.

    prior: (S, S), what white noise is multiplied by for the first u.
    guidance: the weight w; where a plan is guided, D is D + (w - 1) (D - D without the class).
    auto: the weight w; where a plan says so, that D is D + (w - 1) (D - D of the weak graph).
    plans: `plan` by its number of steps; `default` is the model's own, and the only one where `taught` is told.

    Args:
        denoiser, sampler, level: as of `plan`.
        guidance: the model's; as much of it as the denoiser has the means for is taken.
        taught: steps that a student learned, and no others.
    """
    sampler = sampler.resolve(denoiser.sde)
    guidance = (guidance or Guidance(1.0)).supported_by(denoiser)
    if denoiser.net.guidance:  # the graph holds the weight that it is told
        guidance = replace(guidance, weight=1.0)
    plans = {str(sampler.steps): plan(denoiser, sampler, guidance, level)}
    if sampler.grid.flexible and taught is None:
        few = sampler.grid.fewest == 1
        for steps in (n for n in (FEW if few else STEPS) if n >= sampler.fewest):
            other = copy.copy(sampler)
            other.steps = steps
            plans[str(steps)] = plan(denoiser, other, guidance, level)
    last = torch.tensor([denoiser.sde.t_max], dtype=torch.float64)
    return {
        "prior": denoiser.sde.kernel(last).L[0].tolist(),
        "guidance": guidance.weight,
        "auto": guidance.auto,
        "default": sampler.steps,
        "plans": plans,
    }


def numbers(model: LoadedModel, length: int, suffix: str) -> dict[str, Any]:
    """All that a graph's sounds take: of a model of one network those of `sampling`, and what its sounds are.

    Where the states are latents, `state` is how many numbers they have, and `decoder` the graph that makes sounds of
    them. Of a cascade, `stages` has those of `sampling` for each stage, its graph and its length; `handover` says how
    the sounds of one go to the next.

    Args:
        model: that is written.
        length: samples of its sounds.
        suffix: of the files of graphs.
    """
    module = model.module
    told = {
        "rate": model.rate,
        "length": length,
        "mu": model.mu,
        "labels": list(model.labels) if module.denoiser.net.classes else [],
    }
    if isinstance(module, CascadeModel):
        return {**told, "handover": asdict(module.handover), "stages": _stages(module, length, suffix)}
    if module.latents is not None:
        told |= {"state": module.latents.length(length), "decoder": f"decoder{suffix}"}
    return {**told, **sampling(module.denoiser, module.sampler, module.guided(), model.taught)}


def _stages(module: CascadeModel, length: int, suffix: str) -> list[dict[str, Any]]:
    """The numbers of each stage; what is guided is the base alone."""
    handover, last = module.handover, len(module.stages) - 1
    found = []
    for k, (name, stage, own) in enumerate(zip(module.names, module.stages, module.lengths(length), strict=True)):
        level = handover.level if handover.truncated and k < last else None
        taken = sampling(stage, module.sampler, None if k else module.guided(), level=level)
        found.append({"graph": f"{name}{suffix}", "length": own, **taken})
    return found

"""Sounds from stages: each is sampled at its own rate, and goes to the next one with noise that this is told of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffwave_sde.cascade.handover import Handover
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers import Sampler
from diffwave_sde.samplers.base import GridSampler, Progress, SamplingState
from diffwave_sde.samplers.repeated import on_times
from diffwave_sde.sde import SDE


def sample_stages(
    stages: Sequence[BaseDenoiser],
    lengths: Sequence[int],
    sampler: Sampler,
    handover: Handover,
    generator: Generator,
    label: Tensor | None = None,
    count: int | None = None,
    progress: Progress | None = None,
    told: float | None = None,
    begin: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """New sounds (B, 1, N), N the last of the lengths; `sampler.nfe` counts the network calls of all stages.

    The last stage is given what the one before made with noise, and makes all of x, the band below too: so the law of
    x is that of the data if each stage's is, whatever the level.

    Args:
        stages: a denoiser of the lowest rate, and those that go up from it.
        lengths: of their waveforms, samples.
        sampler: of every stage.
        handover: from each stage to the next.
        generator: one, or one for each sound.
        label: the class of each sound, (B,), or None.
        count: B, where neither label nor generator tells.
        progress: called with (steps done, steps in all), over all stages.
        told: the level that the stages are told, if it is not that of the handover.
        begin: samples of a stage's waveform -> the states (B, 1, 1, N) that it begins with, at the first of the
            sampler's times; by default the prior's.

    Raises:
        ValueError: if the handover is truncated and the sampler's steps do not lie on a grid, or its level is not one
            of the process.
    """
    if count is None:
        count = len(label) if label is not None else len(generator)
    calls, z = 0, None
    for k, (stage, length) in enumerate(zip(stages, lengths, strict=True)):
        own = sampler.resolve(stage.sde)
        device = torch.as_tensor(stage.sigma_data).device
        u = stage.sde.prior((count, 1, length), generator, device) if begin is None else begin(length)
        level = None if z is None else z.new_full((count,), handover.level if told is None else told)
        condition = Condition(label=None if label is None else label.to(device), audio=z, level=level)

        def report(done: int, steps: int, k: int = k) -> None:
            if progress is not None:
                progress(k * steps + done, len(stages) * steps)

        if k == len(stages) - 1:
            z = own(stage, u, condition, generator, report)
        elif handover.truncated:
            z = _stopped(own, stage, u, condition, generator, handover.level, report)
        else:
            z = own(stage, u, condition, generator, report)
            z = z + handover.level * randn(z.shape, generator, z.dtype, z.device)
        calls += own.nfe
    sampler.nfe = calls
    return z


def stopped(sampler: Sampler, sde: SDE, level: float) -> GridSampler:
    """The same sampler on a grid that ends at the noise level; the state there is what it makes.

    Source: Ho et al. 2022, section 4.1.

    Raises:
        ValueError: if the sampler's steps do not lie on a grid, or the level is not one of the process.
    """
    if not sampler.on_grid:
        raise ValueError(
            f"{type(sampler).__name__} chooses its steps by what it meets, and stops nowhere else: take a sampler with "
            "steps on a grid, such as DDIM, or a handover that is not truncated"
        )
    t = sde.time(torch.tensor([level**-2], dtype=torch.float64))
    if not sde.t_min < float(t) < sde.t_max:
        raise ValueError(
            f"level = {level:g} is no noise level of {type(sde).__name__} within its times: choose another"
        )
    times = sampler.grid(sde, sampler.steps)
    return on_times(sampler, torch.cat((times[times > float(t) * (1 + 1e-6)], t)))


@torch.no_grad()
def _stopped(
    sampler: Sampler,
    denoiser: BaseDenoiser,
    u: Tensor,
    condition: Condition,
    generator: Generator,
    level: float,
    progress: Progress,
) -> Tensor:
    """The state (B, 1, N) at the noise level, over its mean: x + σ n."""
    sde = denoiser.sde
    cut = stopped(sampler, sde, level)
    state = SamplingState(denoiser, condition, generator)
    plan = cut.ready(state, u)
    for i, coefficients in enumerate(plan):
        u = cut.step(state, u, i, coefficients)
        progress(i + 1, len(plan))
    sampler.nfe = state.calls
    last = cut.grid(sde, cut.steps)[-1:]
    return u[:, 0] / sde.kernel(last).M.to(u)[:, :1, None]

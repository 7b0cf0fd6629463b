"""Draft and refine: a quick model's sound, noised to a level, and brought back from there by a better one.

In Python::

    draft = Draft(checkpoint.load("drums-fast"), strength=0.3)
    make_sounds(checkpoint.load("drums"), "sounds", labels, draft=draft)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.cascade import CascadeModel
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.editing.operations import level_time
from diffwave_sde.model import Mixes
from diffwave_sde.random import Generator, randn
from diffwave_sde.samplers import Sampler
from diffwave_sde.samplers.base import Progress
from diffwave_sde.samplers.repeated import starting_at


@dataclass(frozen=True)
class Draft:
    """Where sounds begin, in place of noise. Source: Meng et al. 2022 (SDEdit), algorithm 1, of a model's own sounds.

    model: makes the draft with its own sampler: a student of few calls, a model of latents, a cascade.
    strength: share of noise in the state that is gone back from, σ / (σ + σ_data), as of `editing.Editor.vary`: at 0
        the draft itself, at 1 sounds in which nothing of it is left.
    """

    model: LoadedModel
    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.strength < 1:
            raise ValueError(f"strength = {self.strength:g} must lie between 0, the draft, and 1, a new sound")

    @property
    def record(self) -> dict[str, Any]:
        """What sounds follow from."""
        return {"draft": str(self.model.path), "draft_step": self.model.step, "strength": self.strength}

    def check(self, model: LoadedModel, sampler: Sampler) -> None:
        """Raise a ValueError of one line if a model cannot go on from these drafts."""
        mine, own = self.model, model
        for what in ("rate", "length"):
            there, here = getattr(mine, what), getattr(own, what)
            if there != here:
                raise ValueError(f"{mine.path} has a {what} of {there} and {own.path} of {here}: drafts need the same")
        if list(mine.labels) != list(own.labels):
            raise ValueError(f"{mine.path} knows other classes than {own.path}: drafts need the same, in one order")
        if isinstance(own.module, CascadeModel) or own.module.latents is not None:
            raise ValueError(f"{own.path} is of stages or latents: drafts are refined by a model of one stage")
        if not sampler.on_grid:
            raise ValueError(
                f"{type(sampler).__name__} chooses its steps by what it meets: to refine takes steps on a grid"
            )

    def sample(
        self,
        model: LoadedModel,
        sampler: Sampler,
        wrap: Callable[[BaseDenoiser], BaseDenoiser] | None,
        mixes: Mixes,
        length: int,
        label: Tensor,
        generator: Generator,
        progress: Progress | None = None,
    ) -> Tensor:
        """New sounds, companded, (B, 1, length); `sampler.nfe` counts the calls of both models."""
        module, own = model.module, self.model.module
        drafter = own.sampler.resolve(own.denoiser.sde)
        x = own.sample(length, label, generator, sampler=drafter, mixes=mixes)
        x = audio.compress(audio.expand(x.float(), self.model.mu), model.mu)
        sde = module.denoiser.sde
        t = level_time(module.denoiser, self.strength)
        late = sampler if t is None else starting_at(sampler, sde, t)
        kernel = sde.kernel(torch.tensor([sde.t_max if t is None else t], dtype=torch.float64))
        eps = randn((len(x), sde.blocks, 1, length), generator, device=x.device)
        condition = Condition(label).to(x.device)
        x = late(module.wrapped(wrap, mixes=mixes), kernel.sample(x, eps), condition, generator, progress)
        sampler.nfe = drafter.nfe + late.nfe
        return x

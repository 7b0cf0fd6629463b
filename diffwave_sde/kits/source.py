"""A model as a maker of hits: new sounds by class and number, and near variations of one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.checkpoint import LoadedModel, is_export, licence
from diffwave_sde.clipping import CLIPS
from diffwave_sde.editing import make_editor
from diffwave_sde.generate import Labels
from diffwave_sde.samplers import Sampler

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class Source:
    """How hits are made.

    model: with the guidance that it is to have.
    sampler: the model's own by default; for variations one whose steps lie on a grid.
    seed: of the noise. Sound number i of a class is that of `diffwave-sde sample --label CLASS`.
    length: samples; those of the training by default.
    clip: none, static or dynamic.
    batch_size: sounds made at a time.
    licence: of what is made; by default what the model's card says.
    """

    model: LoadedModel
    sampler: Sampler | None = None
    seed: int = 0
    length: int | None = None
    clip: str = "none"
    batch_size: int = 16
    licence: str | None = None

    @torch.inference_mode()
    def draw(
        self, labels: Labels, places: Sequence[int], numbers: Sequence[int], progress: Progress | None = None
    ) -> Tensor:
        """New sounds, (n, length).

        Args:
            labels: what may be asked for.
            places: of each sound, the place in `labels` of what it is to be.
            numbers: of each sound, its number among those of its class.
            progress: called with (steps done, steps in all).
        """
        module = self.model.module
        x = module.sample(
            self.length or self.model.length,
            labels.ids[list(places)],
            module.generators(numbers, self.seed),
            sampler=self.resolved(),
            progress=progress,
            wrap=CLIPS.get(self.clip),
            mixes=labels.mixes,
        )
        return audio.expand(x[:, 0], self.model.mu).float().cpu()

    def vary(
        self, x: Tensor, labels: Labels, place: int, number: int, variations: Sequence[int], strength: float,
        progress: Progress | None = None,
    ) -> Tensor:  # fmt: skip
        """Variations (n, T) of sound `number` (T,) of a class; those of other numbers, and of 0, have other noise.

        Source: Meng et al. 2022 (SDEdit), by `editing.Editor.vary`.
        """
        editor = make_editor(
            self.model, int(labels.ids[place]), labels.mixes, self.sampler, self.seed, self.clip,
            batch_size=self.batch_size, progress=progress,
        )  # fmt: skip
        with torch.inference_mode():
            return editor.vary(x, strength, [1_000 * (number + 1) + v for v in variations])

    def resolved(self) -> Sampler:
        """The sampler itself, and not what chooses one."""
        return (self.sampler or self.model.module.sampler).resolve(self.model.module.denoiser.sde)

    def facts(self) -> dict[str, Any]:
        """All that the sounds follow from but their classes and numbers, without what holds on one machine alone."""
        sampler = self.resolved()
        return {
            "model": self.name,
            "step": self.model.step,
            "digest": _digest(self.model.path),
            "sampler": type(sampler).__name__,
            "steps": sampler.steps,
            "guidance": str(self.model.module.guided() or "none"),
            "clip": self.clip,
            "seed": self.seed,
            "length": self.length or self.model.length,
        }

    @property
    def name(self) -> str:
        """What the model is called: its folder, or its run."""
        path = self.model.path.resolve()
        if is_export(path):
            return path.parent.name
        return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem

    def told_licence(self) -> str:
        """The licence that was given; else the model's, where its card has one."""
        return self.licence or licence(self.model.path) or "not stated"

    def comment(self, facts: Mapping[str, Any], label: str, number: int, more: str) -> str:
        """Where a sound comes from, in a line for its file."""
        return (
            f"model {facts['model']}, step {facts['step']}; class {label}; seed {facts['seed']}, sound {number}{more}; "
            f"{facts['sampler']}, {facts['steps']} steps; guidance {facts['guidance']}"
        )


def _digest(path: Path) -> str:
    """Of the weights, by which they are known wherever they lie."""
    hashed = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()

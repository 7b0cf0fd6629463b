"""What a pad can be asked for. All state lies with who asks: a call follows from its arguments alone.

In Python::

    studio = Studio(checkpoint.load("drums"))
    kick = studio.new(["kick"], [0], Settings(seed=3))[0]
    near = studio.vary(kick, "kick", 0.4, Settings(seed=4))
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from diffwave_sde import generate, parts, samplers
from diffwave_sde.audio.clips import Cut
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.clipping import CLIPS
from diffwave_sde.editing import Editor, Prepared, make_editor
from diffwave_sde.editing.preparation import Regions
from diffwave_sde.guidance import Guidance
from diffwave_sde.kits.source import Source
from diffwave_sde.names import typed
from diffwave_sde.samplers import Sampler
from diffwave_sde.samplers.base import Progress
from diffwave_sde.track import Track

PADS = 16
MOST_STEPS = 200
"""Steps of a sampler that may be asked for, so that one user's sounds do not keep all others waiting."""

OFFERED = ("DPMSolverSDE", "DPMSolver2M", "DPMSolver3M", "DDIM", "Heun", "Ancestral", "EulerMaruyama", "SSCS")
"""Samplers to choose from beside the model's own, where they take its process."""

MORPH = 0.5
"""Share of noise at which two sounds are morphed, as of `editing.Editor.interpolate`."""


@dataclass(frozen=True)
class Settings:
    """How sounds are made; what is None is as the model has it.

    sampler: the name of a class of `samplers`.
    steps: of the sampler.
    guidance: how far sounds are guided to their class, 1 is not at all.
    seed: of the noise.
    track: what the sounds are to go with, one window, (length,), at the model's rate; for a model that hears one.
    """

    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    track: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Studio:
    """A model, and what is done with it.

    model: with the guidance that it is to have.
    own: the sampler where none is asked for; the model's by default.
    clip: none, static or dynamic.
    """

    model: LoadedModel
    own: Sampler | None = None
    clip: str = "none"

    @property
    def labels(self) -> list[str]:
        """The classes that may be asked for, as they are typed; none where the model has none."""
        guide = self.model.module.classifier
        if not self.model.module.denoiser.net.classes:
            return [] if guide is None else [typed(name) for name in guide.labels]
        return [typed(name) for name in self.model.labels]

    @property
    def default(self) -> Sampler:
        """The sampler where none is asked for."""
        return self.own or self.model.module.sampler

    @property
    def offered(self) -> list[str]:
        """Names of the samplers that may be asked for, the default first; a student has its own alone."""
        sde = self.model.module.denoiser.sde
        able = [name for name in OFFERED if getattr(samplers, name)().supports(sde)]
        return list(dict.fromkeys([type(self.default).__name__, *([] if self.model.taught else able)]))

    def kit(self) -> list[str]:
        """Classes of a kit of sixteen pads, a row each: kicks, snares, then all others; the last fills what is left."""
        if not self.labels:
            return ["sound"] * PADS
        order = sorted(self.labels, key=lambda name: next((i for i, w in enumerate(_ROWS) if w in name.lower()), 2))
        rows = [order[min(i, len(order) - 1)] for i in range(PADS // 4)]
        return [name for name in rows for _ in range(4)]

    def new(
        self, labels: Sequence[str], numbers: Sequence[int], settings: Settings, progress: Progress | None = None
    ) -> list[Tensor]:
        """New sounds (T,), each of its class or mix of classes: those of `diffwave-sde sample` with these settings.

        Args:
            labels: of each sound, as a person types it: kick, or kick:0.7+snare:0.3.
            numbers: of each sound among those of the seed.
            settings: how.
            progress: called with (steps done, steps in all).

        Raises:
            ValueError: if the model does not know a class, or a setting is out of its range.
        """
        sampler, model = self._how(settings)
        if settings.track is not None:
            asked, window = self._ask(labels), Track(settings.track, model.length, "a track")
            model.check_hears(window.name)
            made = parts.make(
                model, numbers, asked.ids, window, sampler=sampler, wrap=CLIPS.get(self.clip), mixes=asked.mixes,
                seed=settings.seed, progress=progress,
            )  # fmt: skip
            return list(made.nan_to_num(0.0))
        source = Source(model, sampler, settings.seed, clip=self.clip)
        return list(source.draw(self._ask(labels), range(len(labels)), numbers, progress).nan_to_num(0.0))

    def vary(
        self, x: Tensor, label: str, strength: float, settings: Settings, number: int = 0,
        progress: Progress | None = None,
    ) -> Tensor:  # fmt: skip
        """A variation of x (T,): (T,). `strength` is 0 for x itself to 1 for a new sound, as of `Editor.vary`."""
        return self._edit(label, settings, progress, lambda editor: editor.vary(x, strength, [number])[0])

    def inpaint(
        self, x: Tensor, label: str, region: tuple[float, float], settings: Settings, number: int = 0,
        progress: Progress | None = None,
    ) -> Tensor:  # fmt: skip
        """x (T,) with a region, (begin, end) in seconds, made anew: (T,). All else stays bit for bit.

        Raises:
            ValueError: if the region is none, or lies beyond the sound.
        """
        rate = self.model.rate
        begin, end = region
        if not 0 <= begin < end <= len(x) / rate + 1e-3:
            raise ValueError(
                f"a region from {begin:g} to {end:g} s: choose a part of the {len(x) / rate:.3f} s there are"
            )
        regions: Regions = [(begin, min(end, len(x) / rate))]
        sound = Prepared(x, rate, rate, Cut(x, 0, 0.0, 1.0))

        def work(editor: Editor) -> Tensor:
            made = editor.inpaint(x, sound.inside(regions), [number])[0]
            return sound.give_back(made, regions)  # with its seams

        return self._edit(label, settings, progress, work)

    def morph(
        self, a: Tensor, b: Tensor, label: str, share: float, settings: Settings, progress: Progress | None = None
    ) -> Tensor:
        """What lies between a (T,) and b (T,), `share` of the way: (T,); at 0 it is a, at 1 b."""
        if not 0 <= share <= 1:
            raise ValueError(f"amount {share:g}: must lie between 0, the first sound, and 1, the second")
        if share in (0, 1):
            return (a, b)[int(share)].clone()
        return self._edit(
            label, settings, progress, lambda editor: editor.interpolate(a, b, 3, "noise", MORPH, [share])[1]
        )

    def _edit(self, label: str, settings: Settings, progress: Progress | None, work) -> Tensor:
        sampler, model = self._how(settings)
        asked = self._ask([label])
        editor = make_editor(
            model, int(asked.ids[0]), asked.mixes, sampler, settings.seed, self.clip, progress=progress,
            track=settings.track,
        )  # fmt: skip
        with torch.inference_mode():
            return work(editor).clone()

    def _ask(self, labels: Sequence[str]) -> generate.Labels:
        """What the classes are to the model; a model without classes is asked for none."""
        return generate.ask(self.model, len(labels), ",".join(labels) if self.labels else None)

    def _how(self, settings: Settings) -> tuple[Sampler, LoadedModel]:
        """The sampler and the model of these settings."""
        return self._sampler(settings), self._guided(settings.guidance)

    def _sampler(self, settings: Settings) -> Sampler:
        own = self.default
        name, steps = settings.sampler or type(own).__name__, settings.steps
        if name not in self.offered:
            raise ValueError(f"no sampler {name} here: choose one of {', '.join(self.offered)}")
        if name == type(own).__name__ and steps in (None, getattr(own, "steps", None)):
            return own
        if self.model.taught:
            raise ValueError(f"{steps} steps: this model learned {self.model.taught}, and no others")
        if steps is not None and not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"{steps} steps: choose 1 to {MOST_STEPS}")
        kind = type(own) if name == type(own).__name__ else getattr(samplers, name)
        if steps is not None and "steps" not in inspect.signature(kind).parameters:
            raise ValueError(f"{name} chooses its steps itself")
        return kind() if steps is None else kind(steps=steps)

    def _guided(self, weight: float | None) -> LoadedModel:
        """The model with another guidance to the class; its weights are shared."""
        own = self.model.module.guidance
        if weight is None or weight == (own.weight if own else 1.0):
            return self.model
        module = copy.copy(self.model.module)
        module.guidance = replace(own or Guidance(weight=1.0), weight=weight)
        return replace(self.model, module=module)


_ROWS = ("kick", "snare")
"""What a kit begins with."""

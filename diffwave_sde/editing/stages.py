"""A given sound, changed by a cascade: every stage changes its own band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from torch import Tensor
from torch.nn.functional import max_pool1d

from diffwave_sde.cascade import Handover, resize, sample_stages
from diffwave_sde.clipping import CLIPS
from diffwave_sde.denoiser import BaseDenoiser
from diffwave_sde.editing.operations import Batch, Editor, Wrap
from diffwave_sde.editing.projection import KnownSamples
from diffwave_sde.samplers import GridSampler

GUARD = 4
"""Samples of a lower rate, on either side of what is made anew, that are not taken for known."""


class CascadeEditor(Editor):
    """An editor whose states are of the whole sound; a stage begins with its band of them.

    White noise of the whole is white noise of the same level in each band, so the band of a state at a level is the
    state of the band. The stages share that noise, as they should: what a stage makes of its state is a sound that this
    state can have come from, and the next one is told so.

    Where samples are known, so are those of a lower rate, except near what is not: there a lower rate mixes both.

    What takes more of the model than that is refused: latents, since several stages have several flows, and what
    tells of the sound otherwise than by samples.
    """

    def inpaint(self, x: Tensor, free: Tensor, numbers: Sequence[int] = (0,), method: str = "projection") -> Tensor:
        if method == "posterior":
            self._refuse("--method posterior", "take projection")
        return super().inpaint(x, free, numbers, method)

    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        count: int = 7,
        space: str = "latent",
        strength: float = 0.5,
        shares: Sequence[float] | None = None,
    ) -> Tensor:
        if space == "latent":
            self._refuse("--space latent", "take --space noise")
        return super().interpolate(a, b, count, space, strength, shares)

    def encode(self, x: Tensor, iterations: int = 100) -> Tensor:
        self._refuse("latents", "give a model of one stage")

    def decode(self, u: Tensor) -> Tensor:
        self._refuse("latents", "give a model of one stage")

    def _refuse(self, what: str, remedy: str) -> NoReturn:
        raise ValueError(f"{what}: {self.model.path} is of a cascade, which cannot do that yet; {remedy}")

    def _sample(self, sampler: GridSampler, batch: Batch) -> Tensor:
        module = self.model.module
        lengths = module.lengths(batch.length)
        if lengths[-1] != batch.length:
            self._refuse(f"{batch.length} samples", f"its windows are of {lengths[-1]}")
        u = None if batch.begin is None else batch.states
        stages = module.wrapped_stages(CLIPS.get(self.clip), mixes=self.mixes)
        if batch.wrap is not None:
            pairs = zip(stages, lengths, strict=True)
            stages = [self._at(batch.wrap, n, batch.length)(stage) for stage, n in pairs]
        return sample_stages(
            stages,
            lengths,
            sampler,
            self._handover(batch.t),
            batch.generators,
            self._condition(len(batch.numbers)).label,
            progress=batch.report,
            begin=None if u is None else lambda n: resize(u, n),
        )

    def _handover(self, t: float | None) -> Handover:
        """The model's own. From a state at t each stage is finished: one that is stopped shares noise with that state,
        and the next stage, which takes them for two views of a sound, would count it twice."""
        own = self.model.module.handover
        return own if t is None else replace(own, truncated=False)

    def _at(self, wrap: Wrap, length: int, whole: int) -> Callable[[BaseDenoiser], BaseDenoiser]:
        """What is known of the whole sound, told to a stage of `length` samples."""
        if not isinstance(wrap, KnownSamples):
            self._refuse("what is known of the sound other than its samples", "give a model of one stage")
        return wrap if length == whole else coarser(wrap, length)


def coarser(known: KnownSamples, length: int) -> KnownSamples:
    """What is known at a lower rate, of `length` samples, where samples of the whole are known."""
    factor = len(known.x) // length
    near = max_pool1d(known.free.float()[None], factor * (2 * GUARD + 1), factor, padding=factor * GUARD)
    return KnownSamples(resize(known.x, length), near[0] > 0)

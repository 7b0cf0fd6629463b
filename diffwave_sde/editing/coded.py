"""A given sound, changed by a model of latents: what it is made of is changed, and not its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from torch import Tensor

from diffwave_sde.cascade import CascadeModel
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.editing.operations import Batch, Editor, Wrap
from diffwave_sde.editing.stages import CascadeEditor
from diffwave_sde.samplers import GridSampler


def make_editor(model: LoadedModel, *args: Any, **options: Any) -> Editor:
    """The editor of a model of waveforms, of latents, or of stages; the arguments are those of `Editor`."""
    kind = CascadeEditor if isinstance(model.module, CascadeModel) else Editor
    return (LatentEditor if model.module.latents is not None else kind)(model, *args, **options)


class LatentEditor(Editor):
    """An editor whose states are of latents: a sound is encoded first, and what is made is decoded.

    So what comes back has gone through the autoencoder, also where little was changed. What is known of some of a
    sound's samples says nothing simple of its latents: such operations are refused.
    """

    def inpaint(self, x: Tensor, free: Tensor, numbers: Sequence[int] = (0,), method: str = "projection") -> Tensor:
        self._refuse("parts made anew")

    def given(
        self,
        length: int,
        wrap: Wrap,
        numbers: Sequence[int] = (0,),
        start: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        self._refuse("repairs")

    def denoise(self, z: Tensor, noise: float, numbers: Sequence[int] = (0,)) -> Tensor:
        self._refuse("repairs")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"{what}: {self.model.path} is a model of latents, which knows of no single samples; give one of waveforms"
        )

    def _sample(self, sampler: GridSampler, batch: Batch) -> Tensor:
        if batch.wrap is not None:
            self._refuse("a part that is kept")
        width = self.model.module.latents.length(batch.length)
        return self._sounded(super()._sample(sampler, replace(batch, length=width)), batch.length)

    def _coded(self, x: Tensor) -> Tensor:
        return self.model.module.latents.encode(x)

    def _sounded(self, x: Tensor, length: int) -> Tensor:
        return self.model.module.latents.decode(x.float(), length)

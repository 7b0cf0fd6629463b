"""A cascade as a listener has it: a stage of low rate, those that go up from it, and how sounds are drawn from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from diffwave_sde.cascade.bands import resize
from diffwave_sde.cascade.handover import Handover
from diffwave_sde.cascade.sampling import sample_stages
from diffwave_sde.cascade.stage import StageDenoiser
from diffwave_sde.denoiser import BaseDenoiser, Denoiser
from diffwave_sde.guidance import Guidance
from diffwave_sde.model import Mixes, SoundModel
from diffwave_sde.networks import Network
from diffwave_sde.random import Generator
from diffwave_sde.samplers import DefaultSampler, Sampler
from diffwave_sde.samplers.base import Progress
from diffwave_sde.sde import EDM, SDE

NAMES = "base", "middle", "top"
"""What the stages are called, from the lowest rate up."""


class CascadeModel(SoundModel):
    """Stages of rising rate, the process that all of them share, and the sampler that they are heard by.

    The base makes the lowest band of a sound; each later stage is told what the one before made, with noise of a known
    level, and makes the sound at its own rate.

    Source: Ho et al. 2022 (cascades, conditioning augmentation); Saharia et al. 2022, section 2.3.

    Args:
        base: the network of the lowest rate, of one input.
        middle: the network of the next stage, of two inputs, which is told a level.
        top: that of the last stage; null for a cascade of two.
        factors: the rate of each later stage over that of the one before; their product divides the length of a sound.
        sde: the forward process, of one block.
        sampler: the sampler of every stage; DefaultSampler by default.
        handover: how a stage's sound goes to the next one.
        levels: the least and the largest noise level σ of a handover that the stages learn.
        guidance: how far the base is guided, where what a sound is gets decided; null for not at all.
        seed: seed of every draw.

    Raises:
        ValueError: if the parts do not fit one another.
    """

    def __init__(
        self,
        base: Network,
        middle: Network,
        top: Network | None = None,
        factors: Sequence[int] = (5, 4),
        sde: SDE | None = None,
        sampler: Sampler | None = None,
        handover: Handover | None = None,
        levels: Sequence[float] = (0.003, 0.3),
        guidance: Guidance | None = None,
        seed: int = 0,
    ):
        super().__init__()
        sde, nets = sde or EDM(), [net for net in (base, middle, top) if net is not None]
        if sde.blocks != 1 or any(True for _ in sde.parameters()):
            raise ValueError(
                f"{type(sde).__name__} is {'learned' if sde.blocks == 1 else 'of two blocks'}: the stages of a cascade "
                "share one fixed process of one block, such as EDM"
            )
        if len(factors) != len(nets) - 1 or any(f < 2 for f in factors):
            raise ValueError(
                f"factors = {list(factors)}: give one for each of the {len(nets) - 1} stages above the base, each at "
                "least 2"
            )
        if len(levels) != 2 or not 0 < levels[0] < levels[1]:
            raise ValueError(f"levels = {list(levels)}: give the least and the largest, 0 < least < largest")
        for name, net, inputs in zip(NAMES, nets, (1, 2, 2), strict=False):
            if net.inputs != inputs:
                raise ValueError(
                    f"the network {name} takes {net.inputs} input channels and needs {inputs}: set its inputs to "
                    f"{inputs}"
                )
            if getattr(net, "told", False) != (inputs == 2):
                raise ValueError(
                    f"the network {name} is {'not ' * (inputs == 2)}told a level: set its told to "
                    f"{str(inputs == 2).lower()}"
                )
        self.factors, self.levels = tuple(factors), tuple(levels)
        self.stages = nn.ModuleList([Denoiser(base, sde), *(StageDenoiser(net, sde) for net in nets[1:])])
        self.register_buffer("steps_trained", torch.zeros(len(nets), dtype=torch.long))
        self.sampler, self.guidance, self.seed = sampler or DefaultSampler(), guidance, seed
        self.handover, self.classifier, self.latents = handover or Handover(), None, None

    # What a model has (`model.SoundModel`)

    @property
    def denoiser(self) -> Denoiser:
        """The base's, which knows the classes and the process."""
        return self.stages[0]

    @property
    def denoisers(self) -> list[nn.Module]:
        return list(self.stages)

    @property
    def exported(self) -> nn.Module:
        return nn.ModuleDict({"stages": self.stages})

    @property
    def handover(self) -> Handover:
        """How a stage's sound goes to the next one."""
        return self._handover

    @handover.setter
    def handover(self, handover: Handover) -> None:
        low, high = self.levels
        if not low <= handover.level <= high:
            raise ValueError(
                f"a handover at level {handover.level:g}: the stages learn those from {low:g} to {high:g}; choose one "
                "of them"
            )
        self._handover = handover

    # Stages

    @property
    def names(self) -> tuple[str, ...]:
        """What the stages are called."""
        return NAMES[: len(self.stages)]

    def lengths(self, length: int) -> tuple[int, ...]:
        """The samples of each stage for a sound of `length`, which is rounded up to what the factors divide."""
        whole = math.prod(self.factors)
        lowest = -(-length // whole)
        return tuple(lowest * math.prod(self.factors[:k]) for k in range(len(self.stages)))

    @property
    def missing(self) -> list[str]:
        """The stages that were never trained."""
        return [name for name, steps in zip(self.names, self.steps_trained.tolist(), strict=True) if not steps]

    def wrapped_stages(
        self,
        wrap: Callable[[BaseDenoiser], nn.Module] | None = None,
        guidance: Guidance | None = None,
        mixes: Mixes = (),
    ) -> list[nn.Module]:
        """What a sampler is given for each stage: the base guided, the last one wrapped in what is asked for."""
        guidance = guidance or self.guidance or (Guidance(weight=1.0) if mixes else None)
        base, *others = self.stages
        stages = [guidance(base, mixes) if guidance else base]
        # What is decided at the noise levels of guidance is the base's; of the others mixes alone are asked.
        stages += [Guidance(weight=1.0)(stage, mixes) if mixes else stage for stage in others]
        if wrap is not None:
            stages[-1] = wrap(stages[-1])
        return stages

    def sample(
        self,
        length: int,
        label: Tensor | None,
        generator: Generator,
        sampler: Sampler | None = None,
        progress: Progress | None = None,
        count: int | None = None,
        wrap: Callable[[BaseDenoiser], nn.Module] | None = None,
        guidance: Guidance | None = None,
        mixes: Mixes = (),
    ) -> Tensor:
        """New sounds, companded as the training data was: (B, 1, length). As `Model.sample`.

        While stages above are untrained their bands are silent.
        """
        lengths = self.lengths(length)
        stages = self.wrapped_stages(wrap, guidance, mixes)
        steps = self.steps_trained.tolist()
        there = next((k for k, n in enumerate(steps) if not n), len(steps)) or len(steps)
        x = sample_stages(
            stages[:there],
            lengths[:there],
            sampler or self.sampler,
            self.handover,
            generator,
            label,
            count,
            progress,
        )
        return resize(x, lengths[-1])[..., :length]

    def capture(self, *_, **__) -> NoReturn:
        """Raise a ValueError: the stages are not captured yet."""
        raise ValueError("a cascade is not captured as CUDA graphs yet: leave --cuda_graphs out")

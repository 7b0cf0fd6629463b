"""A model as a listener has it: a denoiser, and how sounds are drawn from it. What trains it is in `module`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from diffwave_sde.autoencoder import Autoencoder, Latents
from diffwave_sde.classifier import Classifier
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.guidance import Guidance
from diffwave_sde.networks import Network
from diffwave_sde.parametrization import Parametrization
from diffwave_sde.random import Generator, stream
from diffwave_sde.samplers import CapturedSampler, DefaultSampler, Sampler
from diffwave_sde.samplers.base import Progress
from diffwave_sde.samplers.capture import Capture
from diffwave_sde.sde import EDM, SDE

KEY = "diffwave_sde"
"""Where a checkpoint keeps what it takes to build the model again."""

SAMPLING = "sampling"

Mixes = Sequence[Mapping[int, float]]
"""Class mixes: of each the shares by class."""


class SoundModel(nn.Module):
    """What every model of sounds has: of one network, and of several.

    denoiser: the one that knows the process and the classes.
    sampler: what it is heard by.
    guidance: how far sounds are guided, or None.
    seed: of every draw.
    latents: what the denoiser's states are latents by, or None where they are waveforms.
    classifier: what sounds are guided by where `guidance.classifier` is not 0; no part of what was trained.
    """

    denoiser: Denoiser
    sampler: Sampler
    guidance: Guidance | None
    seed: int
    latents: Latents | None
    classifier: Classifier | None

    @property
    def denoisers(self) -> list[nn.Module]:
        """All that have a network: the denoiser, and the weak one if there is one."""
        return [d for d in (self.denoiser, self.denoiser.weak) if d is not None]

    @property
    def exported(self) -> nn.Module:
        """Whose weights an export holds."""
        if self.latents is None:
            return self.denoiser
        return nn.ModuleDict({"denoiser": self.denoiser, "latents": self.latents})

    def generators(self, numbers: Sequence[int], seed: int | None = None) -> list[torch.Generator]:
        """One generator for each sound, by its number: it does not matter what is made beside it, nor where."""
        seed = self.seed if seed is None else seed
        return [stream(seed, SAMPLING, int(n)) for n in numbers]

    def guided(self, asked: Guidance | None = None) -> Guidance | None:
        """The guidance that sounds are made with: as asked for, else the model's own; as far as there are means."""
        guidance = asked or self.guidance
        return guidance and guidance.supported_by(self.denoiser, self.classifier)


class Model(SoundModel):
    """A network, the process that it was trained for, and the sampler that it is heard by.

    Args:
        net: the network.
        sde: the forward process.
        parametrization: what the network's output stands for; Karras's preconditioning by default.
        sampler: the sampler; DefaultSampler by default.
        guidance: how far sounds are guided, towards their class and away from the errors of the weak network; null for
            not at all. Of no effect where there is one class, or no weak network.
        sigma_data: standard deviation of the data; null for 0.5 until it is known.
        seed: seed of every draw.
        weak: a network with less in it, whose errors sounds are guided away from; null for none.
        autoencoder: by which the model is one of latents, and its sounds are decoded; null for one of waveforms.
    """

    def __init__(
        self,
        net: Network,
        sde: SDE | None = None,
        parametrization: Parametrization | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        sigma_data: float | None = None,
        seed: int = 0,
        weak: Network | None = None,
        autoencoder: Autoencoder | None = None,
    ):
        super().__init__()
        sde = sde or EDM()
        for name, one in {"network": net, "weak network": weak}.items():
            if one is not None and one.inputs != sde.blocks:
                raise ValueError(
                    f"the {name} takes {one.inputs} input channels but {type(sde).__name__} has {sde.blocks} blocks: "
                    f"set the {name}'s inputs to {sde.blocks}"
                )
        for one in (net, weak):
            if autoencoder is not None and one is not None:
                _check_front(one, autoencoder)
        self.latents = None if autoencoder is None else Latents(autoencoder)
        if sigma_data is not None and sigma_data <= 0:
            raise ValueError(f"sigma_data = {sigma_data:g} must be positive, or null to measure it")
        less = None if weak is None else Denoiser(weak, sde, parametrization, sigma_data or 0.5)
        self.denoiser = Denoiser(net, sde, parametrization, sigma_data or 0.5, less)
        self.sampler, self.guidance, self.seed = sampler or DefaultSampler(), guidance, seed
        self.classifier = None

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
        audio: Tensor | None = None,
    ) -> Tensor:
        """New sounds, companded as the training data was: (B, 1, length).

        Args:
            length: samples.
            label: the class of each, (B,), long, negative for none; or None.
            generator: one, or one for each sound.
            sampler: the model's own by default.
            progress: called with (steps done, steps in all).
            count: B, where neither `label` nor `generator` tells.
            wrap: what the denoiser is wrapped in, such as clipping.StaticClip; null for nothing.
            guidance: the model's own by default.
            mixes: class mixes, shares by class; a label that is K of the K classes stands for the first of them, K + 1
                for the second, and so on (`guidance.ClassMix`).
            audio: what each goes with, companded, at the model's rate, (B, 1, T'), or one for all; silence for none.
                Or None.

        Raises:
            ValueError: if `audio` has another shape, or is not finite.
        """
        if count is None:
            count = len(label) if label is not None else len(generator)
        u, condition = self._start(length, label, generator, count, audio)
        x = (sampler or self.sampler)(self.wrapped(wrap, guidance, mixes), u, condition, generator, progress)
        return x if self.latents is None else self.latents.decode(x, length)

    def capture(
        self,
        sampler: Sampler | None = None,
        wrap: Callable[[BaseDenoiser], nn.Module] | None = None,
        guidance: Guidance | None = None,
        graphs: Capture | None = None,
        mixes: Mixes = (),
    ) -> Callable[..., Tensor]:
        """What makes sounds as `sample` does, of one number and length, and on a GPU sooner: `samplers.capture`.

        Args:
            sampler, wrap, guidance, mixes: as for `sample`.
            graphs: what the steps are captured by; CUDA graphs by default.

        Returns:
            (length, label, generator, progress, audio) -> new sounds. The first call captures, and settles how many
            there are and how long; the weights may change afterwards in place, the layers may not.

        Raises:
            ValueError: if there is no GPU to capture on, or the sampler's steps cannot be captured.
        """
        captured = CapturedSampler(self.wrapped(wrap, guidance, mixes), sampler or self.sampler, graphs)

        def sample(
            length: int,
            label: Tensor | None,
            generator: Generator,
            progress: Progress | None = None,
            audio: Tensor | None = None,
        ) -> Tensor:
            count = len(label if label is not None else generator)
            u, condition = self._start(length, label, generator, count, audio)
            x = captured(u, condition, generator, progress)
            return x if self.latents is None else self.latents.decode(x, length)

        return sample

    def _start(
        self, length: int, label: Tensor | None, generator: Generator, count: int, audio: Tensor | None = None
    ) -> tuple[Tensor, Condition]:
        """The state (B, S, 1, length), or of its latent, that a sampling begins with, and what is asked for."""
        device = self.denoiser.sigma_data.device
        if audio is not None:
            if audio.ndim != 3 or audio.shape[0] not in (1, count) or audio.shape[1] != 1 or not audio.isfinite().all():
                raise ValueError(
                    f"audio of shape {tuple(audio.shape)}: what {count} sounds go with is ({count}, 1, T'), mono, or "
                    "one for all, and finite"
                )
            audio = audio.expand(count, -1, -1)
        length = length if self.latents is None else self.latents.length(length)
        u = self.denoiser.sde.prior((count, 1, length), generator, device)
        return u, Condition(label, audio).to(device)

    def wrapped(
        self,
        wrap: Callable[[BaseDenoiser], nn.Module] | None = None,
        guidance: Guidance | None = None,
        mixes: Mixes = (),
    ) -> nn.Module:
        """What a sampler is given: the denoiser, guided, and wrapped in what is asked for."""
        if wrap is not None and self.latents is not None:
            raise ValueError("a model of latents has no full scale to clip its estimates by: leave --clip out")
        guidance = guidance or self.guidance or (Guidance(weight=1.0) if mixes else None)
        denoiser = guidance(self.denoiser, mixes, self.classifier) if guidance else self.denoiser
        return denoiser if wrap is None else wrap(denoiser)


def _check_front(net: nn.Module, autoencoder: Autoencoder) -> None:
    """Raise a ValueError of one line where a network does not take the frames of the latents as frames."""
    front, channels = getattr(net, "front", None), autoencoder.channels
    if front is not None and channels > 1 and not (front.plain and front.bands == channels):
        raise ValueError(
            f"the network's front end is {type(front).__name__} of {front.bands} bands and the latents have {channels} "
            f"channels: set --model.net.front=Fold --model.net.front.bands={channels}"
        )
    if getattr(net, "beside", False):
        raise ValueError("a network of latents hears a context by attention alone: set --model.net.context=attention")


def first_mismatch(model: nn.Module, state: dict[str, Tensor]) -> str | None:
    """The first, by name, of the weights that only one of `model` and `state` has, or that differ in shape."""
    mine, theirs = ({k: v.shape for k, v in part.items()} for part in (model.state_dict(), state))
    return next((name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)), None)


def check_fit(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Raise a ValueError of one line if the weights `state` are not those of a model of this layout."""
    name = first_mismatch(model, state)
    if name is None:
        return
    here, there = (f"{tuple(part[name].shape)}" if name in part else "nothing" for part in (model.state_dict(), state))
    raise ValueError(
        f"the checkpoint is of another model: {name} is {there} there and {here} here; "
        "use the configuration beside it, runs/NAME/config.yaml"
    )

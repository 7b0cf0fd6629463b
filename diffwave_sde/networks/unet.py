"""A 1-D U-Net on the samples, or on the frames of an orthonormal transform of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffwave_sde.networks.blocks import (
    MIXERS,
    Conv,
    NoiseEmbedding,
    ResBlock,
    add,
    circular_features,
    compressed,
    harmonic_features,
    normalise,
    position_features,
    relative_gain,
    zeroed,
)
from diffwave_sde.networks.context import ROUTES, ContextEncoder, CrossAttention, aligned, context_views, presence
from diffwave_sde.networks.fronts import Front, Waveform
from diffwave_sde.networks.resample import DOWN, UP, Decimate, Downsample, Upsample


def check(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError if the option's value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} = {value!r}: choose {' or '.join(choices)}")


def head(width: int, outputs: int, kernel: int, norm: str) -> nn.Sequential:
    """The last layers of a level, zero at the start."""
    return nn.Sequential(normalise(width, norm), nn.SiLU(), zeroed(Conv(width, outputs, kernel, padding=kernel // 2)))


class Network(nn.Module, ABC):
    """What a denoiser wraps.

    inputs: channels of its input, S·C.
    classes: classes that it can be asked for; 0 if none.
    outputs: channels of its output: 1, or 2 if beside the prediction it gives one free number a sample, for instance
        for a learned variance.
    guidance: whether it takes the weight of guidance as an input, `condition.guidance`, so that a call is one pass.
    context: how it hears the condition's `audio`; "none" if it does not.
    """

    inputs: int
    classes: int
    outputs: int = 1
    guidance: bool = False
    context: str = "none"

    @abstractmethod
    def forward(self, u: Tensor, noise: Tensor, condition: object | None = None) -> Tensor:
        """u (B, inputs, T) of unit variance, noise (B,), condition with `label` (B,) -> (B, outputs, T); any T.

        The condition's `audio` (B, 1, T'), if any, is a context to go by; one that is silent throughout is none. A
        network that is `told` a level, a stage of a cascade, is given u (B, 2 inputs, T): its inputs, and then these
        over their noise.
        """


class UNet(Network):
    """A 1-D U-Net with FiLM conditioning, mixing across time at the bottleneck, and a sense of place.

    Three things that raw one-shots need and a picture network lacks:

    - `position`: how long ago the onset was; without it no envelope is learned.
    - `compress`: asinh(u / σ) beside the scaled input. EDM's scaling hides the noise of quiet passages, where the
      network would have to supply a gain of 1 / σ itself.
    - `gate`: the output is b + Σ a · (u / σ, bounded): where nothing but noise is left, the network need only say so,
      with a smooth a, and not copy the noise through all its layers.

    Args:
        inputs: channels of the input: the blocks of the process; null to follow the process.
        classes: classes of sounds; null to follow the data, 0 for none.
        front: the view of the waveform in which the network works.
        channels: width of each level, from the outermost in; one more than there are factors.
        factors: downsampling between levels.
        blocks: residual blocks per level and side; a list gives one number per level, from the outermost in (efficient
            U-Net, more of them with depth: Saharia et al. 2022, appendix B).
        kernel: kernel size of the convolutions, frames; odd.
        dilations: dilations of successive convolutions, in turn; a block has two.
        bottleneck: mixing across time at the innermost level; "both" is an FNet layer and then one of attention.
        mixers: mixing layers at the bottleneck.
        heads: attention heads.
        embedding: width of the embedding of noise level and class.
        features: how the noise level is embedded.
        position: number of features of the time since the onset; 0 for none.
        circular: whether they are of the place on a circle instead, for loops, from where a loop begins, which
            `condition.turn` tells; an even number of them.
        compress: whether asinh(u / σ) is a second view of the input.
        gate: whether the output may pass on u / σ directly.
        dropout: share of activations dropped in training.
        resample: how the rate changes between levels: "strided", a strided convolution down and the nearest neighbour
            up (in BigGAN blocks the mean of f frames down); or "fir", with a fixed low-pass of 32 dB at the new
            Nyquist frequency, against aliases (Zhang 2019; NCSN++).
        transition: what the change of rate is a part of: one "convolution", or a residual block that knows the noise
            level, "biggan" (Brock et al. 2019; NCSN++).
        rescale: whether every residual sum is divided by √2, so that depth does not add variance (Karras et al. 2018;
            NCSN++).
        progressive: whether each deeper level sees the input too, low-passed and decimated to its rate, through a
            convolution of one tap (NCSN++).
        harmonics: n for the further input channels sin(2ⁿ π u) and cos(2ⁿ π u), the finest details of the waveform;
            (7, 8) in the source (Kingma et al. 2021, section 5.5 and appendix C); none by default.
        skips: what the way up does with the features of the way down: "concat" or "add" (then over √2 if `rescale`).
        multiresolution: whether each deeper level too sees the waveform, in an MDCT of its own frame rate, and answers
            in it, gate included: a line that leaks through many bands of a short transform is a few of a long one.
        lowest: how many bands of its transform a deeper level sees and answers in, the lowest; null for all. In the
            high ones an error at an attack is heard before and after it, for as long as the frames are.
        norm: normalisation of the features: "group" over all frames, or "frame" by frame.
        variance: whether there is a second output, free, ungated and zero at the start, for a learned variance
            (Nichol and Dhariwal 2021, section 3.1).
        guidance: whether the weight of guidance is an input, which distillation from a range of weights teaches (Meng
            et al. 2023, section 3.1).
        recompute: whether a training step keeps only what goes into each block, and computes the rest again on its way
            back: the same gradient in less memory, for about a third more time (Chen et al. 2016).
        told: whether it is told the noise level of what it is given beside the noised sound, `condition.level` (B,),
            and given all of its inputs over their noise too, as further ones: a stage of a cascade.
        context: how a sound to go by (the data's pairs; sample --audio) is heard: "none"; "concat", sample by sample
            beside the input, in the same front end; "attention", by cross-attention in the middle, from tokens of a
            learnt encoder, whatever its length; "both".
        context_bands: of the encoder's MDCT, samples between its frames.
        context_factors: strides of the encoder's convolutions; a token is context_bands times their product samples.

    Raises:
        ValueError: if the layout contradicts itself.
    """

    def __init__(
        self,
        inputs: int | None = None,
        classes: int | None = None,
        front: Front | None = None,
        channels: Sequence[int] = (64, 128, 256),
        factors: Sequence[int] = (2, 5),
        blocks: int | Sequence[int] = 2,
        kernel: int = 3,
        dilations: Sequence[int] = (1,),
        bottleneck: Literal["attention", "fnet", "both", "none"] = "attention",
        mixers: int = 1,
        heads: int = 4,
        embedding: int = 256,
        features: Literal["fourier", "sinusoidal"] = "fourier",
        position: int = 12,
        compress: bool = True,
        gate: bool = True,
        dropout: float = 0.0,
        resample: Literal["strided", "fir"] = "strided",
        transition: Literal["convolution", "biggan"] = "convolution",
        rescale: bool = False,
        progressive: bool = False,
        harmonics: Sequence[int] = (),
        skips: Literal["concat", "add"] = "concat",
        variance: bool = False,
        multiresolution: bool = False,
        lowest: int | None = None,
        norm: Literal["group", "frame"] = "group",
        recompute: bool = False,
        guidance: bool = False,
        told: bool = False,
        context: Literal["none", "concat", "attention", "both"] = "none",
        context_bands: int = 120,
        context_factors: Sequence[int] = (2, 2),
        circular: bool = False,
    ):
        super().__init__()
        if len(channels) != len(factors) + 1:
            raise ValueError(
                f"channels has {len(channels)} entries and factors {len(factors)}: need one more width than factors"
            )
        if kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel} must be odd, so that frames stay in place")
        counts = [blocks] * len(channels) if isinstance(blocks, int) else list(blocks)
        if len(counts) != len(channels) or min(counts) < 1:
            raise ValueError(
                f"blocks = {blocks}: give one number, or a list of {len(channels)}, one per level; each at least 1"
            )
        check("resample", resample, DOWN)
        check("transition", transition, ("convolution", "biggan"))
        check("skips", skips, ("concat", "add"))
        check("bottleneck", bottleneck, MIXERS)
        check("norm", norm, ("group", "frame"))
        check("context", context, ROUTES)
        self.context, self.beside = context, context in ("concat", "both")
        self.inputs, self.classes, self.outputs = inputs or 1, classes or 0, 2 if variance else 1
        self.guidance = guidance
        self.front = front or Waveform()
        if circular and (position < 2 or position % 2):
            raise ValueError(f"position = {position}: of a circle there is an even number of features, 40 say")
        self.position, self.circular, self.compress, self.recompute = position, circular, compress, recompute
        self.rescale, self.harmonics, self.concat = rescale, tuple(harmonics), skips == "concat"
        self.stride = math.prod(factors)
        bands = self.front.bands
        self.embed = NoiseEmbedding(embedding, features, self.classes, guidance)
        self.told = told
        if told:
            self.embed_level = NoiseEmbedding(embedding, features, 0)

        def dilate(block: int) -> tuple[int, int]:
            return dilations[2 * block % len(dilations)], dilations[(2 * block + 1) % len(dilations)]

        def stack(inputs: int, width: int, count: int) -> nn.ModuleList:
            widths = [inputs] + [width] * (count - 1)
            return nn.ModuleList(
                ResBlock(w, width, embedding, kernel, dilate(i), dropout, rescale, norm=norm)
                for i, w in enumerate(widths)
            )

        def between(plain: type[nn.Module], rate: type[nn.Module], inputs: int, width: int, factor: int) -> nn.Module:
            if transition == "biggan":
                return ResBlock(inputs, width, embedding, kernel, (1, 1), dropout, rescale, rate(factor), norm)
            return plain(inputs, width, kernel, factor, resample)

        views = self.inputs * bands * (1 + compress + 2 * len(self.harmonics)) + position + 2 * bands * self.beside
        self.gates = gates = self.inputs if gate else 0
        self.fronts, self.level_in, self.level_head = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(channels[1:] if multiresolution else ()):
            finer = self.front.coarser(math.prod(factors[: level + 1]), lowest)
            self.fronts.append(finer)
            seen = self.inputs * finer.bands * (1 + compress) + 2 * finer.bands * self.beside
            self.level_in.append(Conv(seen, width, 1))
            self.level_head.append(head(width, finer.bands * (1 + gates), kernel, norm))
        self.stem = Conv(views, channels[0], kernel, padding=kernel // 2)
        self.down, self.downsample, self.upsample, self.up = (nn.ModuleList() for _ in range(4))
        self.pyramid, self.pyramid_in = nn.ModuleList(), nn.ModuleList()
        for width, deeper, factor, count in zip(channels, channels[1:], factors, counts, strict=False):
            self.down.append(stack(width, width, count))
            self.downsample.append(between(Downsample, DOWN[resample], width, deeper, factor))
            self.upsample.append(between(Upsample, UP[resample], deeper, width, factor))
            self.up.append(stack((1 + self.concat) * width, width, count))
            if progressive:
                self.pyramid.append(Decimate(factor))
                self.pyramid_in.append(Conv(views, deeper, 1))
        inner = channels[-1]
        self.mid_in, self.mid_out = stack(inner, inner, counts[-1]), stack(inner, inner, counts[-1])
        self.mix = nn.ModuleList(mixer(inner, heads, rescale) for _ in range(mixers) for mixer in MIXERS[bottleneck])
        # The prediction, a gate for every input, the free output.
        self.head = head(channels[0], bands * (1 + gates + variance), kernel, norm)
        # Last, so that a network without a context draws the weights that it always drew.
        self.hear = self.cross = None
        if context in ("attention", "both"):
            self.hear = ContextEncoder(inner, context_bands, context_factors)
            self.cross = CrossAttention(inner, inner, heads)

    def forward(self, u: Tensor, noise: Tensor, condition: object | None = None) -> Tensor:
        length = u.shape[-1]
        hop = self.front.hop * (self.stride if self.fronts else 1)
        u = functional.pad(u, (0, -length % hop))
        if self.told:
            u, over_noise = u.chunk(2, 1)
            looks = [(f.analyse(u), f.analyse(over_noise).float()) for f in (self.front, *self.fronts)]
        else:
            gain = relative_gain(noise)
            looks = [self._analyse(front, u, gain) for front in (self.front, *self.fronts)]
        context = getattr(condition, "audio", None) if self.context != "none" else None
        beside = [None] * len(looks)
        if self.beside:
            there = torch.zeros_like(u[:, :1]) if context is None else aligned(context, length).to(u)
            there = functional.pad(there, (0, u.shape[-1] - there.shape[-1]))
            beside = [context_views(front.analyse(there)) for front in (self.front, *self.fronts)]
        embedding = self.embed(noise, getattr(condition, "label", None), getattr(condition, "guidance", None))
        if self.told:
            embedding = embedding + self.embed_level(condition.level, None)
        # As many as the longest frames of all need: a lapped transform has one more than the samples have hops.
        frames = max(looks[0][0].shape[-1], looks[-1][0].shape[-1] * (self.stride if self.fronts else 1))
        frames += -frames % self.stride
        views = self._views(u, looks[0], frames, getattr(condition, "turn", None))
        if self.beside:
            views = torch.cat((views, functional.pad(beside[0], (0, frames - beside[0].shape[-1]))), 1)
        features = self._features(views, looks[1:], embedding, context, beside[1:])
        levels = zip((self.front, *self.fronts), (self.head, *self.level_head), looks, features, strict=True)
        answers = [self._answer(front, head, look[1], x) for front, head, look, x in levels]
        out = [sum(parts) for parts in zip(*(a[:1] for a in answers), strict=True)] + answers[0][1:]
        return torch.cat(out, 1)[..., :length]

    @staticmethod
    def _analyse(front: Front, u: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """u in the frames of a front, as it is and over σ."""
        coefficients = front.analyse(u)
        return coefficients, coefficients.float() * gain

    def _answer(self, front: Front, head: nn.Module, relative: Tensor, x: Tensor) -> list[Tensor]:
        """The outputs of a level from its features x, as waveforms: the prediction, and a free one if there is one."""
        y = head(x)[..., : relative.shape[-1]].float()
        y, *others = y.chunk(y.shape[1] // front.bands, 1)
        gates, rest = others[: self.gates], others[self.gates :]
        for a, view in zip(gates, relative.chunk(self.inputs, 1), strict=False):  # none without a gate
            # Bounded, since far above the noise the network's own output is the finer one; but at 6, which noise
            # does not exceed: of 21,000 numbers one is beyond 4, and was left behind as a blip.
            y = y + a * view.clamp(-6, 6)
        return [front.synthesise(out) for out in (y, *rest)]

    def _seen(self, look: tuple[Tensor, Tensor]) -> list[Tensor]:
        """What any level sees of the waveforms: the frames, and compressed what they are over σ."""
        coefficients, relative = look
        return [coefficients, compressed(relative).to(coefficients.dtype)] if self.compress else [coefficients]

    def _views(self, u: Tensor, look: tuple[Tensor, Tensor], frames: int, turn: Tensor | None) -> Tensor:
        """What the network sees: (B, views, frames), from the waveforms, their frames, and these over σ."""
        coefficients, views = look[0], self._seen(look)
        if self.harmonics:
            views.append(self.front.analyse(harmonic_features(u, self.harmonics)))
        if self.position:
            seen = coefficients.shape[-1]
            if self.circular:
                place = circular_features(seen, self.position, turn, coefficients)
            else:
                place = position_features(seen, self.front.period, self.position, coefficients)
            views.append(place.expand(u.shape[0], -1, -1))
        views = torch.cat(views, 1)
        return functional.pad(views, (0, frames - views.shape[-1]))

    def _features(
        self,
        views: Tensor,
        looks: list[tuple[Tensor, Tensor]],
        embedding: Tensor,
        context: Tensor | None,
        beside: list[Tensor | None],
    ) -> list[Tensor]:
        """Down, across and up again: views (B, views, N), N a multiple of the stride -> features of each level.

        The outermost first, (B, channels[0], N); the deeper ones only where they have views of their own. `context` is
        attended to in the middle, and `beside` what each deeper level sees of it.
        """

        def through(blocks: nn.ModuleList, x: Tensor) -> Tensor:
            for block in blocks:
                again = self.recompute and torch.is_grad_enabled()
                x = checkpoint(block, x, embedding, use_reentrant=False) if again else block(x, embedding)
            return x

        x, skips = self.stem(views), []
        for level, (blocks, downsample) in enumerate(zip(self.down, self.downsample, strict=True)):
            x = through(blocks, x)
            skips.append(x)
            x = downsample(x, embedding)
            if self.pyramid:
                views = self.pyramid[level](views)
                x = x + self.pyramid_in[level](views)
            if looks:
                seen = torch.cat(self._seen(looks[level]) + ([beside[level]] if self.beside else []), 1)
                x = x + self.level_in[level](functional.pad(seen, (0, x.shape[-1] - seen.shape[-1])))
        x = through(self.mid_in, x)
        if self.cross is not None and context is not None and context.shape[-1]:
            context = context.to(views)
            hop = self.front.period * self.stride
            x = self.cross(x, hop, self.hear(context), self.hear.hop, presence(context))
        for mix in self.mix:
            x = mix(x)
        x = through(self.mid_out, x)
        features = [x]
        for blocks, upsample in zip(reversed(self.up), reversed(self.upsample), strict=True):
            x, skip = upsample(x, embedding), skips.pop()
            x = through(blocks, torch.cat((x, skip), 1) if self.concat else add(x, skip, self.rescale))
            features.insert(0, x)
        return features if looks else features[:1]

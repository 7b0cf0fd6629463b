"""An adversary of an autoencoder: a network that learns to tell reconstructions from sounds, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from diffwave_sde.bounds import positive


class Contest(NamedTuple):
    """What a step adds to the loss, () each.

    adversarial: how little the reconstructions are taken for sounds; 0 if they all are.
    matching: how far their features are from those of the sounds, relative to these.
    discrimination: how badly the adversary tells them apart: 0 if it always does, 0.5 by chance.
    """

    adversarial: Tensor
    matching: Tensor
    discrimination: Tensor


class Adversary(nn.Module):
    """Discriminators of complex spectra in several resolutions, trained at the same time as the autoencoder.

    A reconstruction that is right on the average is smooth: where a sound is noise it has too little of it. An
    adversary sees that. Its answers are one for each time and frequency. Both sides step at once, from one backward
    pass: the autoencoder's part sees the adversary's weights as constants, the adversary's part the reconstructions.

    Source: Mao et al. 2017, eq. 9 (least squares, 1 and 0); Larsen et al. 2016 and Kumar et al. 2019, eq. 4 (features);
    Défossez et al. 2022, section 3.4 (complex spectra, several windows).

    Args:
        weight: of being taken for a sound.
        matching: weight of the features' distance.
        start: steps before either counts for the autoencoder, which the adversary begins to learn in.
        windows: lengths of the spectra's windows, samples.
        width: channels of the discriminators' layers.
    """

    def __init__(
        self,
        weight: float = 0.1,
        matching: float = 1.0,
        start: int = 200,
        windows: Sequence[int] = (256, 512, 1024),
        width: int = 16,
    ):
        super().__init__()
        if min(weight, matching, start) < 0:
            raise ValueError(f"weight = {weight:g}, matching = {matching:g} and start = {start} must be at least 0")
        if not windows or min(windows) < 16:
            raise ValueError(f"windows = {list(windows)}: give some, each at least 16 samples")
        positive(width=width)
        self.weight, self.matching, self.start = weight, matching, start
        self.discriminators = nn.ModuleList([_Discriminator(window, width) for window in windows])

    def forward(self, y: Tensor, x: Tensor) -> Contest:
        """Reconstructions y and their sounds x, (B, 1, T) each."""
        parts = [self._contest(one, y, x) for one in self.discriminators]
        return Contest(*(torch.stack(part).mean() for part in zip(*parts, strict=True)))

    @staticmethod
    def _contest(one: nn.Module, y: Tensor, x: Tensor) -> Contest:
        real, fake = one(x), one(y.detach())
        discrimination = 0.5 * ((real[-1] - 1).square().mean() + fake[-1].square().mean())
        constants = {name: p.detach() for name, p in one.named_parameters()}
        seen = functional_call(one, constants, (y,))
        distances = [
            (b - a.detach()).abs().mean() / a.detach().abs().mean().clamp_min(1e-5)
            for a, b in zip(real[:-1], seen[:-1], strict=True)
        ]
        return Contest((seen[-1] - 1).square().mean(), torch.stack(distances).mean(), discrimination)

    def total(self, found: Contest, step: int) -> Tensor:
        """What is added to the loss at a step, ()."""
        if step < self.start:
            return found.discrimination
        return self.weight * found.adversarial + self.matching * found.matching + found.discrimination


class _Discriminator(nn.Module):
    """Convolutions over the real and imaginary parts of a spectrum: x (B, 1, T) -> features, answers last."""

    def __init__(self, window: int, width: int):
        super().__init__()
        self.hop = window // 4
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        # Down in frequency alone: an attack is a matter of single frames.
        shapes = [(2, (1, 1)), (width, (1, 2)), (width, (1, 2)), (width, (1, 1))]
        self.layers = nn.ModuleList(nn.Conv2d(n, width, (3, 5), stride, (1, 2)) for n, stride in shapes)
        self.answer = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        size = len(self.window)
        with torch.autocast(x.device.type, enabled=False):
            x = functional.pad(x.float(), (size // 2, size // 2 + self.hop))[:, 0]
            spectrum = torch.stft(x, size, self.hop, window=self.window, center=False, return_complex=True)
            # Quiet parts are heard too, down to -80 dBFS or so: magnitudes to the power of 0.3, phases as they are.
            magnitude = spectrum.abs().clamp_min(1e-2)
            h = torch.view_as_real(spectrum * magnitude.pow(-0.7)).permute(0, 3, 2, 1)
        found = []
        for layer in self.layers:
            h = functional.leaky_relu(layer(h), 0.1)
            found.append(h)
        return [*found, self.answer(h)]

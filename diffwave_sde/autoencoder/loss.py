"""How far a reconstruction is from its sound: in magnitudes of spectra, and sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.autoencoder.bottlenecks import library


class Distances(NamedTuple):
    """stft: multi-resolution STFT distance of the batch, ().  l1: mean absolute error, (B,)."""

    stft: Tensor
    l1: Tensor


class Reconstruction(nn.Module):
    """Multi-resolution STFT distance (spectral convergence and log magnitudes, by auraloss) and mean absolute error.

    Source: Yamamoto et al. 2020, eq. 3 to 6; Steinmetz and Reiss 2020 (auraloss).

    Args:
        stft: weight of the STFT distance.
        l1: weight of the mean absolute error, which alone knows of phases.
        windows: lengths of the STFTs' windows, samples; each moves by a quarter of itself, in frames of the next
            power of two.
    """

    def __init__(self, stft: float = 1.0, l1: float = 50.0, windows: Sequence[int] = (256, 1024, 2048)):
        super().__init__()
        if stft < 0 or l1 < 0 or not stft + l1:
            raise ValueError(f"stft = {stft:g} and l1 = {l1:g} are weights: at least 0, and not both 0")
        if not windows or min(windows) < 4:
            raise ValueError(f"windows = {list(windows)}: give some, each at least 4 samples")
        self.stft, self.l1 = stft, l1
        self.longest = max(sizes := [1 << (w - 1).bit_length() for w in windows])
        library("auraloss")
        from auraloss.freq import MultiResolutionSTFTLoss

        self.spectra = MultiResolutionSTFTLoss(sizes, [w // 4 for w in windows], list(windows))

    def forward(self, y: Tensor, x: Tensor) -> Distances:
        """A reconstruction y and its sound x, (B, 1, T) each."""
        l1 = (y - x).abs().flatten(1).mean(1)
        # At either end a frame looks back at as much as half of itself.
        lacking = max(self.longest // 2 + 1 - x.shape[-1], 0)
        with torch.autocast(x.device.type, enabled=False):
            stft = self.spectra(*(functional.pad(w.float(), (0, lacking)) for w in (y, x)))
        return Distances(stft, l1)

    def total(self, found: Distances) -> Tensor:
        """The loss of each example, (B,); the STFT's part is that of the batch."""
        return self.stft * found.stft + self.l1 * found.l1

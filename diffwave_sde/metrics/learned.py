"""An embedding that was learned: a small network that was asked what a sound is and what was done to it.

    sound -> log-mel spectrograms -> four strided convolutions -> 64 numbers

Of built-in sounds, corrupted at random, it had to tell the class, the parameters they were made with, and which
corruption they had suffered and how strongly, each by a linear map of the 64 numbers. So a difference that any of
these tasks turns on is a distance here. `benchmarks/embedding.py` trains it; the weights lie beside this file.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffwave_sde.metrics.embeddings import Embedding, mel_weights

WEIGHTS = Path(__file__).with_suffix(".safetensors")

# Window, FFT and hop in samples: the one places an attack, the other parts a kick's body from noise beside it.
_VIEWS = ((512, 1024, 256), (2048, 2048, 512))
_BANDS = 64
_FLOOR = -90.0  # dB: what is quieter is silence to the ear, and hiss at -60 dBFS leaves -79 in a bin


class Encoder(nn.Module):
    """The network: mel spectrograms through two windows, convolutions with ReLU, one linear map of all that is left.

    Args:
        size: numbers per sound.
        channels: of each convolution; each halves bands and frames.
    """

    def __init__(self, size: int = 64, channels: tuple[int, ...] = (24, 48, 64, 96)):
        super().__init__()
        for _, fft, _ in _VIEWS:
            self.register_buffer(f"mel{fft}", mel_weights(fft // 2 + 1, _BANDS).mT.contiguous(), persistent=False)
        layers: list[nn.Module] = []
        bands, frames = _BANDS, Embedding.window // _VIEWS[0][-1] + 1
        for before, after in zip((len(_VIEWS), *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            bands, frames = (bands + 1) // 2, (frames + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(channels[-1] * bands * frames, size)

    def forward(self, sounds: Tensor) -> Tensor:
        """(n, 22050), peak 1, from the onset -> (n, size)."""
        return self.out(self.layers(self.spectrograms(sounds)).flatten(1))

    def spectrograms(self, sounds: Tensor) -> Tensor:
        """(n, 2, bands, frames): the mel bands' levels through both windows, -90 to 0 dB brought to about ±1."""
        parts = []
        for window, fft, hop in _VIEWS:
            hann = torch.hann_window(window, device=sounds.device)
            bins = torch.stft(
                sounds, fft, hop, win_length=window, window=hann, pad_mode="constant", return_complex=True
            )
            power = (bins.real.square() + bins.imag.square()) * (2 / hann.sum()).square()
            level = 10 * (self.get_buffer(f"mel{fft}") @ power + 10 ** (_FLOOR / 10)).log10()
            parts.append(level.repeat_interleave(hop // _VIEWS[0][-1], -1))
        frames = parts[0].shape[-1]
        return torch.stack([part[..., :frames] for part in parts], 1) / 40 + 1.125


class Learned(Embedding):
    """What the network makes of a sound, 64 numbers; their variances add up to 1 over the built-in drums.

    A power spectrogram of aligned sounds does not see polarity, gain or delay.

    Args:
        weights: file of another network of the same layout; none: the one that comes with the package.

    Raises:
        ValueError: if the file is missing or not of this layout.
    """

    name = "learned"

    def __init__(self, weights: str | None = None):
        self.encoder = _shipped() if weights is None else load(weights)

    def embed(self, sounds: Tensor) -> Tensor:
        return self.encoder.to(sounds.device)(sounds)


def load(path: str | os.PathLike) -> Encoder:
    """The network whose weights a safetensors file holds, for evaluation.

    Raises:
        ValueError: if the file is missing or not of this layout.
    """
    encoder = Encoder()
    try:
        encoder.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = "of another layout" if isinstance(error, RuntimeError) else error
        raise ValueError(f"{os.fspath(path)}: not the weights of the learned embedding ({reason})") from error
    return encoder.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def _shipped() -> Encoder:
    return load(WEIGHTS)

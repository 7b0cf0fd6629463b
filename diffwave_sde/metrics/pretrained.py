r"""Embeddings by published networks, from weights that the user has: nothing is downloaded.

    VGGish: 16 kHz -> log(mel + 0.01), windows of 96 frames by 64 bands -> VGG -> 128 numbers
    CLAP:   48 kHz -> the model's own features of 10 s -> its audio tower -> what it compares with text

Both listen from 1 ms before the onset, at a peak of 1, to the end of a sound: where it stays 72 dB under its peak.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffwave_sde import audio
from diffwave_sde.metrics.embeddings import Embedding

_RATE = 16_000  # Hz
_WINDOW, _HOP, _FFT = 400, 160, 512  # samples: 25 ms every 10 ms
_FRAMES, _BANDS = 96, 64
_LOWEST, _HIGHEST = 125.0, 7500.0  # Hz
_OFFSET = 0.01
_SAMPLES = (_FRAMES - 1) * _HOP + _WINDOW  # 0.975 s: what 96 frames are made from

# Channels of each convolution, 3 by 3; None halves frames and bands.
_LAYERS = (64, None, 128, None, 256, 256, None, 512, 512, None)

_EXTRA = "pip install 'diffwave-sde[embeddings]'"


class Network(nn.Module):
    """VGGish up to its embedding: 128 numbers before any activation, without the release's PCA and quantisation.

    Source: Hershey et al. 2017, table 2 and section 4.1, with four groups of convolutions, as released with AudioSet.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in _LAYERS:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()] if after else [nn.MaxPool2d(2)]
            before = after or before
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(_FRAMES // 16 * (_BANDS // 16) * before, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 128),
        )

    def forward(self, windows: Tensor) -> Tensor:
        """(n, 96, 64) -> (n, 128)."""
        out = self.features(windows[:, None])
        # The published weights come from TensorFlow, where the channels are last.
        return self.embeddings(out.permute(0, 2, 3, 1).flatten(1))


class VGGish(Embedding):
    """The 128 numbers of VGGish, without the PCA post-processing. It hears nothing above 7.5 kHz.

    A sound shorter than a window (0.975 s) is followed by silence. A longer one is the mean over its windows, one
    every 0.96 s; what is left after the last whole window is not heard.

    Args:
        weights: a state dict, .safetensors or what torch.save writes, with the names features.N.weight and
            embeddings.N.weight that the ports to PyTorch share. Parameters of the PCA (pproc.*) are left aside.

    Raises:
        ValueError: if the file is missing or not of this layout.
    """

    name = "vggish"
    window = None

    def __init__(self, weights: str):
        self.network = load(weights)

    def embed(self, sounds: Tensor) -> Tensor:
        windows, owners = _pieces(sounds, _RATE, _SAMPLES, _FRAMES * _HOP, _SAMPLES)
        network = self.network.to(sounds.device)
        # A sound of many windows counts as many sounds.
        parts = [network(log_mel(torch.stack(part))) for part in _split(windows, 32)]
        return _means(torch.cat(parts), owners)


class CLAP(Embedding):
    """What a CLAP model compares sounds with texts by; of length 1 for each window. It needs `transformers`.

    A sound is followed by silence to the next half second, and then padded to the model's 10 s as the folder says: the
    published models were taught with short sounds repeated. One that is longer than 10 s is the mean over its windows
    of 10 s; what is left after the last whole one is not heard. No crop is taken by chance.

    Args:
        weights: a folder as ClapModel.save_pretrained and its feature extractor's or processor's write it.

    Raises:
        ValueError: if `transformers` is not installed, or the folder holds no such model.
    """

    name = "clap"
    window = None

    def __init__(self, weights: str):
        folder = Path(weights)
        if not (folder / "config.json").is_file():
            raise ValueError(f"{weights}: not the folder of a CLAP model (no config.json in it)")
        try:
            from transformers import ClapFeatureExtractor, ClapModel
        except ImportError as error:
            raise ValueError(f"clap needs the package transformers: {_EXTRA}") from error
        try:
            with _quiet():
                self.features = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
                model, found = ClapModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except Exception as error:  # whatever an odd file makes of it
            raise ValueError(f"{weights}: not the folder of a CLAP model ({_line(error)})") from error
        # What is missing is drawn by chance, and only warned of.
        if missing := sorted(name for name in found["missing_keys"] if name.startswith("audio_")):
            raise ValueError(f"{weights}: not the folder of a CLAP model ({missing[0]} is missing)")
        self.model = model.eval().float().requires_grad_(False)

    def embed(self, sounds: Tensor) -> Tensor:
        rate, most = self.features.sampling_rate, self.features.nb_max_samples
        pieces, owners = _pieces(sounds, rate, most, most, rate // 2)
        model, parts = self.model.to(sounds.device), []
        for part in _split(pieces, 16):
            with _same_chance():
                inputs = self.features([p.cpu().numpy() for p in part], sampling_rate=rate, return_tensors="pt")
            # The extractor calls one of a batch of short sounds long, by chance: none is.
            longer = torch.zeros(len(part), 1, dtype=torch.bool, device=sounds.device)
            out = model.get_audio_features(inputs["input_features"].to(sounds), is_longer=longer)
            parts.append(getattr(out, "pooler_output", out))
        return _means(torch.cat(parts), owners)


def load(path: str | os.PathLike) -> Network:
    """The network whose weights a file holds, for evaluation.

    Raises:
        ValueError: if the file is missing or not of this layout.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"{path}: not the weights of VGGish (no such file)")
    try:
        if path.endswith(".safetensors"):
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: value for name, value in state.items() if not name.startswith("pproc.")}
    except OSError as error:
        raise ValueError(f"{path}: not the weights of VGGish ({error.strerror or _line(error)})") from error
    except Exception as error:  # whatever unpickling makes of an odd file
        raise ValueError(f"{path}: not the weights of VGGish (no state dict that can be read)") from error
    with torch.device("meta"):  # 72 million numbers need not be drawn first
        network = Network()
    try:
        network.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the weights of VGGish (of another layout)") from error
    return network.float().eval().requires_grad_(False)


def log_mel(sounds: Tensor) -> Tensor:
    """log(mel + 0.01) of sounds (n, T) at 16 kHz, (n, frames, 64): frames of 25 ms, the first at the first sample."""
    frames = sounds.unfold(-1, _WINDOW, _HOP) * torch.hann_window(_WINDOW).to(sounds)
    return (torch.fft.rfft(frames, _FFT).abs() @ _mel().to(sounds) + _OFFSET).log()


def _mel() -> Tensor:
    """Weights of magnitudes in 64 bands, (257, 64), float64: triangles over mel, not over Hz as torchaudio's are."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * (hertz / 700).log1p()

    edges = torch.tensor([_LOWEST, _HIGHEST], dtype=torch.float64)
    low, high = mel(edges).tolist()
    edges = torch.linspace(low, high, _BANDS + 2, dtype=torch.float64)
    at = mel(torch.linspace(0, _RATE / 2, _FFT // 2 + 1, dtype=torch.float64))[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_min(0)


def _pieces(sounds: Tensor, rate: int, size: int, hop: int, step: int) -> tuple[list[Tensor], Tensor]:
    """Windows of sounds (n, T), and the sound that each is of.

    Args:
        rate: of the windows, Hz.
        size, hop: of windows, samples; what is left after the last whole one is dropped.
        step: a sound shorter than `size` is one window, followed by silence up to a multiple of this.
    """
    pieces, owners = [], []
    for i, sound in enumerate(sounds):
        x = audio.trim(sound)
        x = audio.resample(x, audio.RATE, rate) if len(x) else x
        if len(x) < size:
            x = torch.nn.functional.pad(x, (0, max(-len(x) % step, step * (not len(x)))))
        own = list(x.unfold(0, size, hop)) if len(x) >= size else [x]
        pieces += own
        owners += [i] * len(own)
    return pieces, torch.tensor(owners, device=sounds.device)


def _split(pieces: Sequence[Tensor], count: int) -> Iterator[Sequence[Tensor]]:
    return (pieces[k : k + count] for k in range(0, len(pieces), count))


def _means(x: Tensor, owners: Tensor) -> Tensor:
    """The mean of the rows (m, D) of each owner, who are in order: (n, D)."""
    counts = owners.bincount()
    return x.new_zeros(len(counts), x.shape[1]).index_add_(0, owners, x) / counts[:, None]


@contextmanager
def _same_chance() -> Iterator[None]:
    """Leave numpy's global random numbers as they were: a training draws from them too."""
    state: Any = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither bars nor warnings of `transformers`: what is wrong is said in one line."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

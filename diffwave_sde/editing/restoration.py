"""Repairs: what a damaged sound says of the sound that it was, found in the samples themselves.

Each task gives a wrapper of the denoiser (`projection`, `posterior`), or a noise level to go back from.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.editing.operations import Wrap
from diffwave_sde.editing.posterior import GradientPosterior, Likelihood, LinearGaussian, LinearPosterior
from diffwave_sde.editing.preparation import Prepared, Regions
from diffwave_sde.editing.projection import Projected, between, known_band

TASKS = ("declip", "denoise", "bandwidth", "dropout")
HEADROOM = 6.0  # dB that a clipped sound may rise above where it was cut
SHORTEST = 8  # samples of exact silence within a sound that are taken for a dropout
_FRAME = 256


def declip(x: Tensor, level: float, mu: float) -> Wrap:
    """D between the bounds of a waveform (T,) that was clipped at `level`, companded with μ."""
    low, high = (audio.compress(bound.clamp(-1, 1), mu) for bound in clip_bounds(x, level))
    return lambda d: Projected(d, between(low, high))


def widen(x: Tensor, share: float, method: str) -> Wrap:
    """D with the band of a waveform (T,), as the model sees it, below this share of the sampling rate.

    Args:
        x: the waveform.
        share: of the sampling rate, 0 to 0.5.
        method: projection or posterior, as of `Editor.inpaint`.
    """
    if method == "projection":
        return lambda d: Projected(d, known_band(x, share))
    low = known_band(torch.zeros_like(x), share)  # what is left of a sound above the cutoff
    likelihood = LinearGaussian(lambda D: D - low(D), (x - low(x[None, None])[0, 0])[None, None])
    return lambda d: LinearPosterior(d, likelihood)


def gaps(sound: Prepared) -> Regions:
    """The dropouts of a file; errors are those of `dropouts`."""
    lost = dropouts(sound.original)
    edges = torch.cat((lost.new_zeros(1), lost, lost.new_zeros(1))).int().diff().nonzero().flatten() / sound.rate
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def by_likelihood(spec: str, x: Tensor, model: LoadedModel) -> Wrap:
    """D given what a likelihood of one's own says of the sound, observed as the waveform x (T,).

    Raises:
        ValueError: if there is none at `spec` (`own_likelihood`), or the model is of companded sounds.
    """
    likelihood = own_likelihood(spec, x[None, None], model.rate)
    if model.mu:
        raise ValueError(f"--likelihood is of waveforms, and {model.path} sees companded ones (mu = {model.mu:g})")
    return lambda d: GradientPosterior(d, likelihood)


def clip_level(x: Tensor) -> float:
    """The level at which a waveform (T,) was clipped.

    Raises:
        ValueError: if fewer than two neighbours are at its peak: it was not.
    """
    top = float(x.abs().max())
    at = x.abs() >= 0.998 * top
    if top == 0 or int((at[1:] & at[:-1]).sum()) < 3:
        raise ValueError("no samples in a row lie at the peak: it is not clipped; give --level if it is")
    return 0.998 * top


def clip_bounds(x: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """What a sound can have been that was clipped at `level`: (low, high), (T,) each; both are x where it was not."""
    low = torch.where(x >= level, x, torch.where(x <= -level, -math.inf, x))
    high = torch.where(x >= level, math.inf, torch.where(x <= -level, x, x))
    return low, high


def dropouts(x: Tensor, shortest: int = SHORTEST) -> Tensor:
    """Which samples of a waveform (T,) are lost: runs of exact zeros within the sound, (T,), bool.

    Raises:
        ValueError: if there are none.
    """
    zero = x == 0
    sounding = (~zero).nonzero()
    lost = torch.zeros_like(zero)
    if len(sounding):
        first, last = int(sounding[0]), int(sounding[-1])
        edges = zero[first : last + 1].int().diff().nonzero().flatten() + first + 1
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            lost[begin:end] = end - begin >= shortest
    if not bool(lost.any()):
        raise ValueError(f"no run of {shortest} silent samples within the sound: name the parts with --mask")
    return lost


def cutoff(x: Tensor) -> float:
    """The share of the sampling rate, 0 to 0.5, above which a waveform (T,) has nothing: 60 dB less than its loudest.

    Raises:
        ValueError: if it reaches to the top.
    """
    power = torch.fft.rfft(x.double()).abs().square()
    width = max(len(power) // 200, 1)
    smooth = power[: len(power) // width * width].view(-1, width).mean(1)
    loud = (smooth > 1e-6 * smooth.max()).nonzero()
    edge = (int(loud[-1]) + 1) * width if len(loud) else 0
    if edge >= 0.95 * len(power):
        raise ValueError("its spectrum reaches to the top: say with --cutoff from where on it is to be made")
    return 0.5 * edge / (len(power) - 1)


def noise_level(x: Tensor) -> float:
    """The standard deviation of the noise of a waveform (T,): that of its quietest frames that are no digital silence.

    Raises:
        ValueError: if it has none.
    """
    frames = x[: len(x) // _FRAME * _FRAME].view(-1, _FRAME)
    frames = frames[(frames != 0).any(1)]
    level = float(frames.std(1).sort().values[: max(1, len(frames) // 10)].median()) if len(frames) else 0.0
    if level < 1e-5:
        raise ValueError("no noise in its quietest frames: say with --noise how loud it is, in dB re full scale")
    return level


def own_likelihood(spec: str, observed: Tensor, rate: int) -> Likelihood:
    """A likelihood of one's own, FILE.py:CLASS, made with (observed (1, 1, T), rate in Hz).

    Raises:
        ValueError: if there is none there, or it has no `log_prob`.
    """
    file, colon, name = spec.rpartition(":")
    path = Path(file)
    if not colon or not path.is_file():
        raise ValueError(f"--likelihood {spec}: give FILE.py:CLASS, of a file that is there")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--likelihood {spec}: {path} fails: {type(error).__name__}: {error}") from error
    cls = getattr(module, name, None)
    if cls is None or not callable(getattr(cls, "log_prob", None)):
        raise ValueError(f"--likelihood {spec}: no class {name} with log_prob(x) there")
    try:
        return cls(observed, rate)
    except TypeError as error:
        raise ValueError(f"--likelihood {spec}: {name}(observed, rate) fails: {error}") from error

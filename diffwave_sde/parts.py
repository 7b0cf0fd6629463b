"""Parts made for a track: window by window, each with what it shares with the one before it known.

In Python::

    model = checkpoint.load("runs/bass")
    track = Track.read("track.wav", model.rate, model.length)
    parts = make(model, range(4), torch.full((4,), -1), track)  # (4, T)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.editing.operations import Wrap
from diffwave_sde.editing.posterior import LinearGaussian, LinearPosterior
from diffwave_sde.editing.projection import Projected
from diffwave_sde.model import Mixes
from diffwave_sde.samplers import Sampler
from diffwave_sde.samplers.base import Progress
from diffwave_sde.track import Track

STRIDE = 10**6
"""Between the number of a window's noise and that of the next."""


def beginning(known: Tensor, exact: bool = False, iterations: int = 3, damping: float = 0.1) -> Wrap:
    """What a denoiser is wrapped in, so that its sounds begin with what is known.

    Args:
        known: the first samples of each, companded, (B, 1, K).
        exact: whether D is corrected by its own covariance, as of `editing.LinearPosterior`, which takes 1 + iterations
            backward passes a call and is exact on Gaussian sounds; else it is set to what is known.
        iterations, damping: as of `LinearPosterior`.
    """
    size = known.shape[-1]
    if exact:
        likelihood = LinearGaussian(lambda D: D[..., :size], known)
        return lambda denoiser: LinearPosterior(denoiser, likelihood, iterations=iterations, damping=damping)
    return lambda denoiser: Projected(denoiser, lambda D: torch.cat((known.to(D), D[..., size:]), -1))


@torch.no_grad()
def make(
    model: LoadedModel,
    numbers: Sequence[int],
    label: Tensor,
    track: Track,
    *,
    sampler: Sampler | None = None,
    wrap: Wrap | None = None,
    mixes: Mixes = (),
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
    iterations: int = 3,
    damping: float = 0.1,
) -> Tensor:
    """The parts of these numbers for a track, (n, T), in [-1, 1] or a little beyond.

    Part number i of a seed is the same however many are made, and of a track of one window it is sound number i.

    Args:
        model: that hears contexts, with the guidance that it is to have.
        numbers: of the parts.
        label: class of each, (n,); -1 for none.
        track: what they are to go with, at the model's rate.
        sampler: the model's own by default.
        wrap: what the denoiser is wrapped in beside.
        mixes: class mixes, as of `Model.sample`.
        seed: of the noise.
        batch_size: windows made at a time.
        progress: called with (windows made, windows in all).
        iterations, damping: as of `beginning`, where the track is joined by "posterior".

    Raises:
        ValueError: if windows are to know of each other, and the sampler chooses its steps by what it meets.
    """
    sampler = (sampler or model.module.sampler).resolve(model.module.denoiser.sde)
    if track.known and track.count > 1 and not sampler.on_grid:
        raise ValueError(
            f"{type(sampler).__name__} chooses its steps by what it meets, which windows that know of each other "
            "cannot have: take another, such as DDIM or DPMSolverSDE, or --join crossfade"
        )
    windows = audio.compress(track.windows(), model.mu)
    count, rows, last = track.count, range(len(numbers)), None
    # One window after the other, of several parts together; where windows do not know of each other, all together.
    turns = [[(i, w) for i in rows] for w in range(count)]
    if not track.known:
        turns = [[(i, w) for i in rows for w in range(count)]]
    batches = [turn[k : k + batch_size] for turn in turns for k in range(0, len(turn), batch_size)]
    made, done = torch.zeros(len(numbers), count, track.length), 0
    for some in batches:
        parts, places = map(list, zip(*some, strict=True))
        around = wrap
        if track.known and places[0]:
            last = made[parts, [w - 1 for w in places], track.hop : track.hop + track.known]
            start = beginning(audio.compress(last, model.mu)[:, None], track.joined == "posterior", iterations, damping)
            around = start if wrap is None else nested(start, wrap)
        # The first window has the noise of a sound without a track; the others have their own.
        generators = model.module.generators([numbers[i] + w * STRIDE for i, w in some], seed)
        x = model.module.sample(
            track.length,
            label[parts],
            generators,
            sampler,
            _share(progress, done, len(some), len(numbers) * count),
            wrap=around,
            mixes=mixes,
            audio=windows[places][:, None],
        )
        made[parts, places] = audio.expand(x[:, 0], model.mu).cpu().to(made)
        done += len(some)
    return torch.stack([track.join(part) for part in made])


def nested(outer: Wrap, inner: Wrap) -> Wrap:
    """A denoiser in two wrappers."""
    return lambda denoiser: outer(inner(denoiser))


def _share(progress: Progress | None, done: int, more: int, total: int) -> Progress | None:
    """What tells the steps of a batch of `more` windows as so many of `total` windows."""
    return progress and (lambda step, steps: progress(done + more * step / steps, total))

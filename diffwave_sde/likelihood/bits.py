"""Bits per sample of 16-bit sounds, whichever way they are estimated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.likelihood.dequantisation import Dequantisation
from diffwave_sde.likelihood.estimate import Estimator, Progress
from diffwave_sde.likelihood.levels import Levels


@torch.no_grad()
def bits_per_sample(
    denoiser: BaseDenoiser,
    estimator: Estimator,
    x: Tensor,
    label: Tensor,
    generators: Sequence[torch.Generator],
    mu: float = 0.0,
    dequantisation: Dequantisation | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Bits per sample, and their standard errors: (B,) each, float64, on the CPU.

    An estimator with a decoder is asked for the probability of each sample's cell, any other for the density of the
    sound dequantised, by its generator first of all. The error is that of the estimator's draws, for the places drawn.

    Args:
        denoiser: the model.
        estimator: how.
        x: waveforms (B, 1, T) on the grid of 16 bits.
        label: classes (B,), negative for none.
        generators: one for each sound.
        mu: of the companding that the model sees, 0 for none.
        dequantisation: of a density; uniform by default.
        progress: told of network calls.
    """
    levels, device, count = Levels(mu), denoiser.sigma_data.device, x[0].numel()
    condition = Condition(label=label.to(device))
    if estimator.takes_edges:
        edges = tuple(edge.to(device) for edge in levels.edges(x.cpu().double()))
        found = estimator(denoiser, levels.compress(x.cpu()).float().to(device), condition, generators, edges, progress)
    else:
        own = dequantisation or Dequantisation()
        found = own(denoiser, estimator, levels, x.to(device), condition, generators, progress)
    return levels.bits_of(found.nats.cpu(), count, True), found.error.cpu() / (count * math.log(2))

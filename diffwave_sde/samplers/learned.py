r"""Time grids that are learned: of all grids of K times, the one with the best bound on the likelihood.

The bound of a chain is a sum over its steps, and for ancestral sampling the term of a step from t to s is

    KL(q(u_s | u_t, x) ‖ q(u_s | u_t, D)) = ½ (SNR(s) - SNR(t)) |x - D(u_t, t)|²

so its network calls are those at t alone: N calls give all N² terms of N candidate times, and a dynamic programme finds
the best path of any number of steps. Source: Watson et al. 2021, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.random import Generator, randn
from diffwave_sde.sde import SDE


@torch.no_grad()
def errors(
    denoiser: BaseDenoiser,
    x: Tensor,
    times: Tensor,
    condition: Condition | None = None,
    generator: Generator = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """E|x - D(u_t, t)|² per sample of the waveforms x (B, C, T), at each of `times` (N,): (N,), float64. N calls.

    The noise is the same at all times, so that what is compared differs in time alone.
    """
    kernel = denoiser.sde.kernel(times)
    eps = randn((len(x), denoiser.sde.blocks, *x.shape[1:]), generator, x.dtype, x.device)
    at = denoiser.nodes(times, eps)
    found = []
    for i in range(len(times)):
        u = type(kernel)(kernel.M[i : i + 1], kernel.L[i : i + 1]).sample(x, eps)
        found.append((at(u, i, condition)[0] - x).square().double().mean().cpu())
        if progress is not None:
            progress(i + 1, len(times))
    return torch.stack(found)


def terms(sde: SDE, times: Tensor, error: Tensor) -> Tensor:
    """The bound's term of a step from times[i] to times[j], in nats per sample: (N, N), inf unless times fall."""
    snr = sde.kernel(times).snr.cpu()
    table = 0.5 * (snr[None, :] - snr[:, None]) * error[:, None]
    later = torch.ones_like(table, dtype=torch.bool).triu(1)
    return table.masked_fill(~later, torch.inf)


def best_paths(table: Tensor, steps: Sequence[int]) -> dict[int, list[int]]:
    """For each K of `steps` the K places, first and last among them, between which the terms of `table` are least.

    Args:
        table: (N, N), what a step from one place to another costs.
        steps: the K asked for.

    Raises:
        ValueError: if a K is below 2 or above N.
    """
    count = len(table)
    for k in steps:
        if not 2 <= k <= count:
            raise ValueError(f"steps = {k}: a grid out of {count} candidates has between 2 and {count} times")
    # cost[j]: the least sum of so many terms from the first place to j; back[k][j] the place before it
    cost, back = table[0].clone(), []
    paths: dict[int, list[int]] = {}
    for k in range(2, max(steps) + 1):
        if k > 2:
            cost, before = (cost[:, None] + table).min(0)
            back.append(before)
        if k in steps:
            path = [count - 1]
            for before in reversed(back):
                path.append(int(before[path[-1]]))
            paths[k] = [0, *reversed(path)]
    return paths

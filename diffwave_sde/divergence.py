r"""The trace of a Jacobian: that of a flow's velocity is how fast a density thins out along it.

    tr J = E[vᵀ J v],    E[v vᵀ] = I

v of random signs (Rademacher) has the least variance of all independent entries, 2 Σ_{i≠j} S_ij² with S = ½ (J + Jᵀ);
that of normal entries is 2 Σ_ij S_ij². Each probe costs a backward pass. Source: Hutchinson 1990; Skilling 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from diffwave_sde.random import Generator, rand, randn

Noise = Literal["rademacher", "gaussian"]
Embed = Callable[[Tensor], Tensor]


def draw_probes(noise: Noise, shape: tuple[int, ...], generator: Generator, dtype: torch.dtype, device) -> Tensor:
    """Probes of `shape` (B, P, ...): signs, or normal numbers.

    Raises:
        ValueError: if `noise` is neither.
    """
    if noise == "rademacher":
        return 2 * rand(shape, generator, dtype, device).round() - 1
    if noise == "gaussian":
        return randn(shape, generator, dtype, device)
    raise ValueError(f"probes of {noise!r}: choose rademacher or gaussian")


def estimates(f: Tensor, u: Tensor, probes: Tensor, embed: Embed = lambda v: v, create_graph: bool = False) -> Tensor:
    """An unbiased estimate of tr(∂f/∂u E) from each probe: (B, P).

    Args:
        f: a function of u, (B, ...).
        u: what f was computed from, (B, ...), with gradients.
        probes: (B, P, ...), of f's shape.
        embed: E, the linear map by which a number of f is one of u; the identity where they have one shape.
        create_graph: whether the estimates are to be differentiated themselves.
    """
    return torch.stack(list(_along(f, u, probes.unbind(1), embed, create_graph)), 1)


def trace(f: Tensor, u: Tensor, embed: Embed = lambda v: v, create_graph: bool = False) -> Tensor:
    """tr(∂f/∂u E), (B,), exactly, with a backward pass for each number of f: for small problems."""
    units = torch.eye(f[0].numel(), dtype=f.dtype, device=f.device).reshape(-1, *f.shape[1:])
    rows = (unit.expand_as(f) for unit in units)
    return sum(_along(f, u, rows, embed, create_graph))


def diagonal(f: Tensor, u: Tensor, probes: Tensor) -> Tensor:
    """An unbiased estimate of the diagonal of ∂f/∂u, (B, ...) as f and u, from probes (B, P, ...) of signs.

    Its variance is the sum of squares of what stands beside the diagonal, over P. Source: Bekas et al. 2007, eq. 2.
    """
    total = torch.zeros_like(f)
    for v in probes.unbind(1):
        (gradient,) = torch.autograd.grad((f * v).sum(), u, retain_graph=True)
        total += gradient * v
    return total / probes.shape[1]


def _along(f: Tensor, u: Tensor, probes: Iterable[Tensor], embed: Embed, create_graph: bool) -> Iterable[Tensor]:
    """vᵀ (∂f/∂u) E v for each v, (B,) each; one after the other, so that memory holds one backward pass."""
    kind = torch.promote_types(f.dtype, torch.float32) if create_graph else torch.float64
    for v in probes:
        (gradient,) = torch.autograd.grad((f * v).sum(), u, retain_graph=True, create_graph=create_graph)
        yield (gradient * embed(v)).flatten(1).sum(1, dtype=kind)

"""Distances between two sets of embedded sounds, (n, D) and (m, D), for the small sets that are the rule here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def shrunk(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) and the covariance (D, D) of x (n, D), shrunk towards a multiple of the identity.

    With fewer sounds than dimensions the plain covariance has no rank, and its root says little. The share is that of
    the oracle approximating shrinkage. Source: Chen, Wiesel, Eldar and Hero 2010, eq. 23.
    """
    n, size = x.shape
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.mT @ centred / n
    trace, square = covariance.trace(), covariance.square().sum()
    above = (1 - 2 / size) * square + trace.square()
    below = (n + 1 - 2 / size) * (square - trace.square() / size)
    share = (above / below).clamp(0, 1) if below > 0 else torch.ones_like(trace)
    identity = torch.eye(size, dtype=x.dtype, device=x.device)
    return mean, (1 - share) * covariance + share * trace / size * identity


def frechet(a: Tensor, b: Tensor, shrink: bool = True) -> float:
    """The Fréchet distance of two sets, each taken for normal: |μ - ν|² + tr(A + B - 2 (A B)^½).

    Args:
        a, b: embeddings (n, D) and (m, D); two at least of each.
        shrink: whether the covariances are shrunk (`shrunk`) or the plain unbiased ones.

    Raises:
        ValueError: if a set has fewer than two sounds, or another size of embedding.

    Source: Dowson and Landau 1982, eq. 4; Heusel et al. 2017.
    """
    a, b = _pair(a, b)
    statistics = [shrunk(x) if shrink else (x.mean(0), x.mT.cov().view(x.shape[1], -1)) for x in (a, b)]
    (mean, A), (other, B) = statistics
    # tr (A B)^½ is the sum of the singular values of A^½ B^½, which keeps half of the digits of a root of A B.
    cross = torch.linalg.svdvals(_root(A) @ _root(B)).sum()
    return max(0.0, float((mean - other).square().sum() + A.trace() + B.trace() - 2 * cross))


def kernel(a: Tensor, b: Tensor) -> float:
    """The unbiased squared kernel distance (MMD²) with the kernel (x·y / D + 1)³; at equal laws its mean is 0.

    Embeddings are centred and brought to unit variance by both sets together, which of all scalings leaves that so.

    Source: Bińkowski et al. 2018, eq. 4; Gretton et al. 2012, lemma 6.
    """
    a, b = _pair(a, b)
    both = torch.cat((a, b))
    centre, scale = both.mean(0), both.var(0).mean().sqrt().clamp_min(1e-12)
    a, b = (a - centre) / scale, (b - centre) / scale

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        matrix, n = k(x, x), len(x)
        return (matrix.sum() - matrix.trace()) / (n * (n - 1))

    return float(within(a) + within(b) - 2 * k(a, b).mean())


@dataclass(frozen=True)
class Manifold:
    """What the neighbourhoods of two sets say; each is 1 at best.

    precision: share of generated sounds within the neighbourhood of any real one.
    recall: share of real sounds within the neighbourhood of any generated one.
    density: how many real neighbourhoods a generated sound lies in, over k: above 1 where the real are dense.
    coverage: share of real sounds whose neighbourhood holds a generated one.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, generated: Tensor, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage, the neighbourhoods reaching to the k-th nearest of the same set.

    With fewer than k + 1 sounds in a set k is lowered to what there is.

    Source: Kynkäänniemi et al. 2019, eq. 1 and 2; Naeem et al. 2020, eq. 3 to 6.
    """
    real, generated = _pair(real, generated)
    k = min(k, len(real) - 1, len(generated) - 1)
    across = torch.cdist(real, generated)  # (n, m)
    reach, other = (torch.cdist(x, x).kthvalue(k + 1).values for x in (real, generated))  # the first is itself
    inside = across <= reach[:, None]
    return Manifold(
        precision=float(inside.any(0).double().mean()),
        recall=float((across <= other[None]).any(1).double().mean()),
        density=float(inside.double().sum(0).mean() / k),
        coverage=float(inside.any(1).double().mean()),
    )


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for x in (a, b):
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"embeddings of shape {tuple(x.shape)}: a distance needs (n, D) with n = 2 at least")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings of {a.shape[1]} and of {b.shape[1]} numbers cannot be compared")
    return a.double(), b.double()

"""One set of sounds laid against another: distances beside their floor, classes, measurements, neighbours.

The floor of a figure is the same figure of real sounds against other real sounds, of the same number: no generator can
be told from the data below it. Sets are small as a rule, so every figure is a mean over resamplings, with its spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffwave_sde.metrics.distances import frechet, kernel, manifold, shrunk
from diffwave_sde.metrics.embeddings import Embedding
from diffwave_sde.metrics.measurements import MEASUREMENTS, difference, measure

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


@dataclass(frozen=True)
class SoundSet:
    """Sounds of one origin.

    sounds: waveforms (n, T) at 44.1 kHz.
    labels: the class of each, "" where it has none.
    name: what tables call the set.
    """

    sounds: Tensor
    labels: tuple[str, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.sounds):
            raise ValueError(f"{self.name}: {len(self.labels)} labels for {len(self.sounds)} sounds")

    def rows(self, label: str) -> Tensor:
        """Indices of the sounds of a class."""
        return torch.tensor([i for i, own in enumerate(self.labels) if own == label], dtype=torch.long)

    def of(self, rows: Tensor) -> SoundSet:
        """Some of its sounds."""
        return replace(self, sounds=self.sounds[rows], labels=tuple(self.labels[i] for i in rows.tolist()))


@dataclass(frozen=True)
class MetricResult:
    """A figure of the generated sounds and its floor, means over resamplings with their standard deviations."""

    value: float
    spread: float
    floor: float
    floor_spread: float


MetricResults = dict[str, MetricResult]


def metric_results(
    strata: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int], resamples: int, generator: torch.Generator
) -> MetricResults:
    """All distances between embeddings (n, D) and (m, D), so many of each and of a second part of the real ones.

    Of each stratum (a class) as many are drawn from all three, its count: else a distance would be that of the shares
    of the classes.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(resamples):
        draws = []
        for (real, generated), count in zip(strata, counts, strict=True):
            mixed = real[torch.randperm(len(real), generator=generator)]
            other = generated[torch.randperm(len(generated), generator=generator)]
            draws.append((mixed[:count], mixed[count : 2 * count], other[:count]))
        a, b, g = map(torch.cat, zip(*draws, strict=True))
        value, floor = ({"frechet": frechet(a, x), "kernel": kernel(a, x), **vars(manifold(a, x))} for x in (g, b))
        for name in value:
            found.setdefault(name, []).append((value[name], floor[name]))
    out = {}
    for name, pairs in found.items():
        both = torch.tensor(pairs, dtype=torch.float64)
        spread = both.std(0) if resamples > 1 else torch.zeros(2)
        (value, floor), (s, f) = both.mean(0).tolist(), spread.tolist()
        out[name] = MetricResult(value, s, floor, f)
    return out


class Discriminant:
    """Linear discriminant analysis: the class whose mean is nearest in the metric of the shrunk common covariance.

    Args:
        x: embeddings (n, D) to learn from.
        labels: their classes.
    """

    def __init__(self, x: Tensor, labels: Sequence[str]):
        self.classes = sorted(set(labels))
        x = x.double()
        belongs = [torch.tensor([own == c for own in labels]) for c in self.classes]
        self.means = torch.stack([x[rows].mean(0) for rows in belongs])
        within = torch.cat([x[rows] - mean for rows, mean in zip(belongs, self.means, strict=True)])
        self.precision = torch.linalg.pinv(shrunk(within)[1], hermitian=True)

    def __call__(self, x: Tensor) -> list[str]:
        """The class of each embedding (n, D)."""
        away = x.double()[:, None] - self.means
        squares = torch.einsum("nkd,de,nke->nk", away, self.precision, away)
        return [self.classes[i] for i in squares.argmin(1).tolist()]


def accuracy(real: Tensor, labels: Sequence[str], generated: Tensor, asked: Sequence[str]) -> MetricResult:
    """Share of generated sounds that a classifier of the real ones takes for what was asked for.

    The floor is that of real ones, each half told by a classifier of the other half.
    """

    def share(classifier: Discriminant, x: Tensor, told: Sequence[str]) -> float:
        return sum(a == b for a, b in zip(classifier(x), told, strict=True)) / len(told)

    halves = [list(range(start, len(labels), 2)) for start in (0, 1)]
    floors = []
    for mine, others in (halves, halves[::-1]):
        classifier = Discriminant(real[mine], [labels[i] for i in mine])
        floors.append(share(classifier, real[others], [labels[i] for i in others]))
    return MetricResult(share(Discriminant(real, labels), generated, asked), 0.0, sum(floors) / 2, 0.0)


@dataclass(frozen=True)
class Neighbours:
    """The nearest real sound of each generated one, and how near real ones are to one another.

    nearest: (m,) index of the real sound.
    distance: (m,).
    typical: median distance of a real sound from its nearest other one.
    close: share of generated sounds nearer to a real one than all but a hundredth of real ones are to another.
    duplicates: share of generated sounds nearer than that to another generated one.
    repeated: the same share of the real ones among themselves: what to expect.
    """

    nearest: Tensor
    distance: Tensor
    typical: float
    close: float
    duplicates: float
    repeated: float


def neighbours(real: Tensor, generated: Tensor) -> Neighbours:
    """Whether training sounds were memorised, and whether sounds repeat: embeddings (n, D), (m, D)."""

    def apart(x: Tensor) -> Tensor:
        return torch.cdist(x, x).fill_diagonal_(float("inf")).amin(1)

    real, generated = real.double(), generated.double()
    own = apart(real)
    distance, nearest = torch.cdist(generated, real).min(1)
    # Copies in the set must not make every sound look original: they are left out of what is usual.
    usual = own[own > 1e-6]
    bound = float(usual.quantile(0.01)) if len(usual) else 1e-6
    share = [float((x < bound).double().mean()) for x in (distance, apart(generated), own)]
    return Neighbours(nearest, distance, float(usual.median()) if len(usual) else 0.0, *share)


def evaluate(
    real: SoundSet,
    generated: SoundSet,
    embeddings: Sequence[Embedding],
    resamples: int = 20,
    count: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Everything, as plain numbers.

    Args:
        real, generated: the sets. Classes that both know are compared one by one too.
        embeddings: one table each.
        resamples: how many, for the means and their spread.
        count: sounds of each set in a resampling; by default as many as leave the real ones a second half.
        seed: of the resamplings.
        progress: called as it goes on.

    Returns:
        {"embeddings": {name: {"all": {"count", figure: ..., "accuracy": ...}, class: {...}}}, "measurements": ...,
        "neighbours": ..., "left_out": classes that both know and of which there are too few real sounds for a floor}

    Raises:
        ValueError: if a set is too small: 4 real sounds and 2 generated ones are the least.
    """
    if len(real.sounds) < 4 or len(generated.sounds) < 2:
        raise ValueError(
            f"{len(real.sounds)} real and {len(generated.sounds)} generated sounds: needs 4 real ones and 2 generated"
        )
    shared = sorted((set(real.labels) & set(generated.labels)) - {""})
    whole = (torch.arange(len(real.sounds)), torch.arange(len(generated.sounds)))
    classes = {label: (real.rows(label), generated.rows(label)) for label in shared}
    parts = {"all": list(classes.values()) if len(shared) > 1 else [whole]}
    if len(shared) > 1:
        parts |= {label: [rows] for label, rows in classes.items()}
    say = progress or (lambda what, done, total: None)
    steps, done = len(embeddings) * (2 + len(parts)) + 1, 0

    def step(what: str) -> None:
        nonlocal done
        say(what, done, steps)
        done += 1

    result: dict = {
        "real": real.name,
        "generated": generated.name,
        "resamples": resamples,
        "seed": seed,
        "embeddings": {},
    }
    result["left_out"] = [label for label, (mine, _) in classes.items() if len(mine) < 2]
    for embedding in embeddings:
        step(f"{embedding.name}: {real.name}")
        a = embedding(real.sounds)
        step(f"{embedding.name}: {generated.name}")
        g = embedding(generated.sounds)
        table: dict = {}
        for name, strata in parts.items():
            step(f"{embedding.name}: {name}")
            sizes = [min(len(mine) // 2, len(theirs)) for mine, theirs in strata]
            if count:
                sizes = [min(size, max(1, count // len(strata))) for size in sizes]
            if sum(sizes) < 2:
                continue
            generator = torch.Generator().manual_seed(seed)
            found = metric_results([(a[mine], g[theirs]) for mine, theirs in strata], sizes, resamples, generator)
            table[name] = {"count": sum(sizes), **{k: vars(v) for k, v in found.items()}}
        if len(shared) > 1 and "all" in table:
            mine, theirs = ([i for i, label in enumerate(s.labels) if label in shared] for s in (real, generated))
            figure = accuracy(a[mine], [real.labels[i] for i in mine], g[theirs], [generated.labels[i] for i in theirs])
            table["all"]["accuracy"] = vars(figure)
        result["embeddings"][embedding.name] = table
        if embedding is embeddings[0]:
            result["neighbours"] = _plain(neighbours(a, g))
    step("measurements")
    result["measurements"] = _measurements(real, generated, *balanced(parts["all"]))
    say("done", steps, steps)
    return result


def _plain(found: Neighbours) -> dict:
    return {
        **{k: getattr(found, k) for k in ("typical", "close", "duplicates", "repeated")},
        "nearest": found.nearest.tolist(),
        "distance": [round(d, 4) for d in found.distance.tolist()],
    }


def balanced(strata: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Rows of both sets, the classes with the same shares in both: as many as that leaves."""
    sizes = [min(len(mine), len(theirs)) for mine, theirs in strata]
    kept = []
    for rows in zip(*strata, strict=True):
        least, size = min(((len(r), n) for r, n in zip(rows, sizes, strict=True)), key=lambda pair: pair[0] / pair[1])
        kept.append(torch.cat([r[: least * n // size] for r, n in zip(rows, sizes, strict=True)]))
    return tuple(kept)


def _measurements(real: SoundSet, generated: SoundSet, mine: Tensor, theirs: Tensor) -> dict:
    a, g = measure(real.sounds[mine]), measure(generated.sounds[theirs])
    out = {}
    for name, measurement in MEASUREMENTS.items():
        halves = a[name][::2], a[name][1::2]
        out[name] = {
            "unit": measurement.unit,
            "real": _quantiles(a[name]),
            "generated": _quantiles(g[name]),
            "difference": difference(a[name], g[name]),
            "floor": difference(*halves),
        }
    return out


def _quantiles(x: Tensor) -> list[float]:
    """10 %, the median, 90 %, and the share that has a value at all."""
    known = x[~x.isnan()].double()
    if not len(known):
        return [float("nan")] * 3 + [0.0]
    return [*known.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist(), len(known) / len(x)]

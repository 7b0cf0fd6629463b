"""How probable a model finds each sound of a library, in a CSV that a stopped run goes on with."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffwave_sde import __version__
from diffwave_sde.atomic import atomic_write
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.collection.clips import Library, known
from diffwave_sde.denoiser import Condition
from diffwave_sde.likelihood import Dequantisation, Estimator, Levels, Proxy, bits_per_sample
from diffwave_sde.random import stream

RECORD = "likelihood.json"
TABLE = "likelihood.csv"


@dataclass(frozen=True)
class Score:
    """What is known of one sound.

    file, label: its name and its class.
    known: whether the model knows the class; else it was asked for none.
    bits: per sample of 16-bit sound; of a proxy only the order means anything.
    bits_error: its standard error from the estimator's own draws; NaN of a single draw.
    nats: -log p of the whole sound, in the units of `bits`.
    silence: share of its samples that are exactly zero.
    doubt: nats by which the best other class explains it better at loud noise, negative where its own does; NaN where
        it was not asked, or there is no other.
    other: that class.
    """

    file: str
    label: str
    known: bool
    bits: float
    bits_error: float
    nats: float
    silence: float
    doubt: float = math.nan
    other: str = ""


CLASSES = Proxy(terms=7, lowest=0.3)
"""At these levels of noise it is decided what a sound is; below they are all alike."""


@torch.no_grad()
def class_doubts(model: LoadedModel, x: Tensor, label: Tensor) -> tuple[Tensor, list[str]]:
    """For sounds x (B, 1, T) said to be of `label` (B,): `doubt` and `other` of a Score."""
    denoiser = model.module.denoiser
    seen = Levels(model.mu).compress(x).float().to(denoiser.sigma_data.device)
    costs = torch.stack(
        [
            CLASSES.profile(denoiser, seen, Condition(label=torch.full_like(label, k).to(seen.device))).sum(1).cpu()
            for k in range(len(model.labels))
        ],
        1,
    )
    row = torch.arange(len(x))
    others = costs.clone()
    others[row[label >= 0], label[label >= 0]] = math.inf
    best = others.min(1)
    doubt = torch.where(label >= 0, costs[row, label.clamp_min(0)] - best.values, math.nan)
    return doubt, [model.labels[k] for k in best.indices.tolist()]


def score_library(
    model: LoadedModel,
    estimator: Estimator,
    library: Library,
    folder: Path,
    options: dict[str, Any],
    seed: int = 0,
    batch: int = 8,
    classes: bool = False,
    dequantisation: Dequantisation | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> list[Score]:
    """Scores of all sounds, written to `folder/likelihood.csv` as they come; those that are there are kept.

    Args:
        model: the model.
        estimator: how.
        library: the sounds.
        folder: for the table, and the record of what it was made with.
        options: all that the estimator follows from, as JSON holds it.
        seed: of the draws.
        batch: sounds at a time.
        classes: whether it is asked too which other class explains a sound better.
        dequantisation: of a density; uniform by default. Where it is another, `options` says so.
        progress: told of sounds, and parts of them.

    Raises:
        ValueError: if the folder holds a table that was made otherwise.
    """
    record = {
        "version": __version__, "model": str(model.path), "step": model.step, "seed": seed, "length": model.length,
        "classes": classes, **options,
    }  # fmt: skip
    held = _held(folder, json.loads(json.dumps(record)))
    names = _row_names(library)
    label = known(library.labels, model.labels)
    todo = [i for i, name in enumerate(names) if name not in held]

    def told(done: int, count: int, calls: int = 0, of: int = 1) -> None:
        """Of the sounds that are done, and of those that are being asked for."""
        if progress is not None and of:
            progress(len(library) - len(todo) + done + count * calls / of, len(library))

    told(0, 0)
    for first in range(0, len(todo), batch):
        rows = todo[first : first + batch]
        x = library.sounds(rows)
        # What is drawn for a sound follows from its content, not from what stands beside it.
        generators = [stream(seed, "likelihood", library.digests[i]) for i in rows]
        bits, errors = bits_per_sample(
            *(model.module.denoiser, estimator, x, label[rows], generators, model.mu, dequantisation),
            progress=partial(told, first, len(rows)),
        )
        asked = classes and len(model.labels) > 1
        doubts, others = class_doubts(model, x, label[rows]) if asked else ([math.nan] * len(rows), [""] * len(rows))
        for place, i in enumerate(rows):
            silence = float((x[place] == 0).float().mean())
            value, count = float(bits[place]), x[place].numel()
            nats = value * count * math.log(2)
            held[names[i]] = Score(
                *(library.files[i], library.labels[i], bool(label[i] >= 0), value, float(errors[place])),
                *(nats, silence, float(doubts[place]), others[place]),
            )
        _write(folder, held, record)
        told(first + len(rows), 0)
    return [held[name] for name in names]


def _row_names(library: Library) -> list[str]:
    """What a sound is found again by: its name, class and content."""
    parts = zip(library.files, library.labels, library.digests, strict=True)
    return [hashlib.blake2b("\0".join(part).encode(), digest_size=8).hexdigest() for part in parts]


def _held(folder: Path, record: dict[str, Any]) -> dict[str, Score]:
    try:
        old = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        with open(folder / TABLE, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error}): remove it, or choose another --out") from None
    if old != record:
        other = next(key for key in [*record, *old] if old.get(key) != record.get(key))
        raise ValueError(
            f"{folder} holds scores made otherwise ({other} was {old.get(other)}): choose another --out, or remove it"
        )
    return {line.pop("id"): _score(line) for line in lines}


def _score(line: dict[str, str]) -> Score:
    numbers = {key: float(line[key]) for key in ("bits", "bits_error", "nats", "silence", "doubt")}
    return Score(line["file"], line["label"], line["known"] == "True", **numbers, other=line["other"])


def _write(folder: Path, held: dict[str, Score], record: dict[str, Any]) -> None:
    if not (folder / RECORD).exists():
        with atomic_write(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    with atomic_write(folder / TABLE) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["id", *Score.__dataclass_fields__])
        table.writeheader()
        for name, score in held.items():
            table.writerow({"id": name, **asdict(score)})


@dataclass(frozen=True)
class Summary:
    """A class's row: the mean over its sounds, and the standard error of that mean among sounds like these."""

    label: str
    count: int
    bits: float
    bits_error: float
    nats: float
    nats_error: float
    silence: float


def summarise(scores: Sequence[Score]) -> list[Summary]:
    """A row for each class, by name, and one for all where there are several."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.label, []).append(score)
    named = sorted(groups.items())
    if len(named) > 1:
        named.append(("all", list(scores)))
    return [_row(label, own) for label, own in named]


def _row(label: str, own: Sequence[Score]) -> Summary:
    def mean(values: list[float]) -> tuple[float, float]:
        a = torch.tensor(values, dtype=torch.float64)
        return float(a.mean()), float(a.std() / math.sqrt(len(a))) if len(a) > 1 else math.nan

    bits, nats = mean([s.bits for s in own]), mean([s.nats for s in own])
    silence = sum(s.silence for s in own) / len(own)
    return Summary(label, len(own), *bits, *nats, silence)

"""The clips that made the loss or the gradient jump, as sounds to hear."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_folder
from diffwave_sde.callbacks.spikes import described
from diffwave_sde.sounds import page
from diffwave_sde.sounds.run_page import PLACES, SPIKE, SPIKES, numbered


def write_clips(records: Path, home: Path, data: Any) -> list[int]:
    """Write the clips of the spikes that are not there yet, and take away those whose record is gone.

    Args:
        records: the folder of SpikeDetector's records, step=N.pt.
        home: the run's folder of sounds, in which `spikes/step=N` is made.
        data: the datamodule, whose store holds the clips; without one only what happened is told.

    Returns:
        The steps of the new ones, rising.
    """
    kept = {int(file.stem.partition("=")[2]) for file in records.glob("step=*.pt")}
    there = set(numbered(home / SPIKES))
    for step in there - kept:
        shutil.rmtree(home / SPIKES / f"step={step}", ignore_errors=True)
    for step in sorted(kept - there):
        record = torch.load(records / f"step={step}.pt", weights_only=True)
        with atomic_folder(home / SPIKES / f"step={step}") as folder:
            told = {
                "step": step,
                "what": described(record["reasons"]) + (", step skipped" if record["skipped"] else ""),
                "loss": finite(record["loss"]),
                "grad_norm": finite(record["grad_norm"]),
                "clips": _clips(folder, record, data),
            }
            (folder / SPIKE).write_text(json.dumps(told, indent=1), encoding="utf-8")
    return sorted(kept - there)


def finite(value: float) -> float | None:
    """A number as JSON holds it: null where it is not finite."""
    return value if abs(value) < float("inf") else None


def _clips(folder: Path, record: dict[str, Any], data: Any) -> list[dict[str, str]]:
    """Write the clips that had the highest loss; what is told of each."""
    store = getattr(data, "store", None)
    if store is None:
        return []
    clips = [
        (loss, sigma, row, name)
        for batch in record["batches"]
        for loss, sigma, row, name in zip(
            batch["losses"].float().nan_to_num(torch.inf, torch.inf).tolist(),
            batch["sigma"].tolist() if "sigma" in batch else [None] * len(batch["index"]),
            batch["index"].tolist(),
            batch.get("names") or [""] * len(batch["index"]),
            strict=True,
        )
    ]
    worst = sorted(clips, key=lambda clip: -clip[0])[: len(PLACES)]
    if not worst:
        return []
    waves = audio.from_int16(store.read([row for _, _, row, _ in worst]))
    titles = [f"{k} {Path(name).stem or f'row {row}'}" for k, (_, _, row, name) in enumerate(worst)]
    files = page.write_sounds(folder, titles, waves, getattr(data, "rate", audio.RATE))
    return [
        {"file": file.name, "told": f"{name or f'row {row}'}: loss {loss:.4g}" + _at(sigma)}
        for file, (loss, sigma, row, name) in zip(files, worst, strict=True)
    ]


def _at(sigma: float | None) -> str:
    """Where the loss was taken; an autoencoder's is of no noise level."""
    return "" if sigma is None else f" at σ = {sigma:.3g}"

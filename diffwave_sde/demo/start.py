"""The kit that a page begins with, kept so that the next start has it at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffwave_sde.atomic import atomic_write
from diffwave_sde.demo.studio import Settings, Studio
from diffwave_sde.kits.source import Source
from diffwave_sde.samplers.base import Progress

KEPT = 8
"""Kits in the cache; the oldest are removed."""


@dataclass(frozen=True)
class Start:
    """The kit that a page begins with: the class of each pad, and its sound (T,); `settings` are how it was made."""

    labels: Sequence[str]
    sounds: Sequence[Tensor]
    settings: Settings


def starting_kit(
    studio: Studio, seed: int, batch: int, progress: Progress | None = None, cache: Path | None = None
) -> Start:
    """Sixteen sounds for the page to begin with, sound number i of the seed on pad i.

    Args:
        studio: makes them.
        seed: of the noise.
        batch: sounds made at a time.
        progress: called with (sounds made, as a fraction within a batch; sounds in all).
        cache: folder of kits that were made before; none is read or written by default. A kit there that cannot be
            read is made anew, and a folder that cannot be written keeps none.
    """
    labels, settings = studio.kit(), Settings(seed=seed)
    file = cache and cache / f"{_key(studio, seed, labels)}.safetensors"
    sounds = _read(file, len(labels), studio.model.length)
    if sounds is None:
        sounds = _made(studio, labels, settings, batch, progress)
        _write(file, sounds)
    elif progress is not None:
        progress(len(labels), len(labels))
    return Start(labels, sounds, settings)


def cache_folder() -> Path:
    """Where kits are kept: in the user's cache folder (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffwave-sde" / "demo"


def _made(
    studio: Studio, labels: Sequence[str], settings: Settings, batch: int, progress: Progress | None
) -> list[Tensor]:
    sounds = []
    for first in range(0, len(labels), batch):
        some = range(first, min(first + batch, len(labels)))

        def told(done: int, steps: int, first: int = first, more: int = len(some)) -> None:
            if progress is not None:
                progress(first + more * done / max(steps, 1), len(labels))

        sounds += studio.new([labels[i] for i in some], some, settings, told)
    return sounds


def _key(studio: Studio, seed: int, labels: Sequence[str]) -> str:
    """A digest of all that the sounds follow from."""
    model = studio.model
    source = Source(model, studio.default, seed, clip=studio.clip)
    guided = model.module.guided()
    facts = source.facts() | {
        "sampler": _told(source.resolved()),
        "guidance": asdict(guided) if guided else None,
        "device": str(next(model.module.parameters()).device.type),
        "precision": str(type(model.module.denoiser.net)),
        "labels": list(labels),
        "torch": torch.__version__,
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True, default=repr).encode(), digest_size=16).hexdigest()


def _told(value: Any) -> Any:
    """A sampler, its grid and whatever else they have, as JSON: what they are and hold, but for `nfe`, a count
    of what was done.
    """
    if hasattr(value, "__dict__"):
        held = {name: _told(one) for name, one in sorted(vars(value).items()) if name != "nfe"}
        return [type(value).__qualname__, held]
    return value.tolist() if isinstance(value, Tensor) else value


def _read(file: Path | None, count: int, length: int) -> list[Tensor] | None:
    if file is None or not file.is_file():
        return None
    try:
        sounds = load_file(file)["sounds"]
    except (OSError, SafetensorError, KeyError):
        return None
    if sounds.shape != (count, length) or sounds.dtype != torch.float32 or not bool(sounds.isfinite().all()):
        return None
    return list(sounds)


def _write(file: Path | None, sounds: Sequence[Tensor]) -> None:
    if file is None:
        return
    try:
        with atomic_write(file) as temporary:
            save_file({"sounds": torch.stack([x.float() for x in sounds])}, temporary)
        for old in sorted(file.parent.glob("*.safetensors"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        pass  # a start that takes longer next time; nothing else is lost

"""A folder with changed sounds: WAV files, pictures, a page with before and after, and the record of how they came."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffwave_sde.atomic import atomic_write
from diffwave_sde.names import printable
from diffwave_sde.sounds import page
from diffwave_sde.sounds.folder import NEIGHBOURS, peak_dbfs, plain

RECORD = "edit.json"


@dataclass(frozen=True)
class Sound:
    """A waveform with its name.

    name: any text.
    waveform: (T,), float32.
    rate: Hz.
    """

    name: str
    waveform: Tensor
    rate: int


def holds(folder: Path, record: dict[str, Any]) -> bool | None:
    """Whether a folder holds the edit of this record, whole; None if it holds none at all.

    Raises:
        ValueError: if it holds another one.
    """
    try:
        old = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        old = {}
    if not isinstance(old, dict) or {k: old.get(k) for k in record} != plain(record):
        raise ValueError(f"{folder} holds another edit: choose another --out")
    return all((folder / one["file"]).is_file() for one in old["results"])


@dataclass(frozen=True)
class Nearest:
    """What is told beside a result of the training clip that it is nearest to.

    record: as JSON holds it.
    told: for a reader.
    clip: to hear.
    """

    record: dict[str, Any]
    told: str
    clip: Sound


def write(
    folder: Path,
    title: str,
    before: list[Sound | None],
    after: list[Sound],
    record: dict[str, Any],
    subtype: str,
    nearest: list[Nearest] | None = None,
) -> list[Path]:
    """Write an edit; its record comes last, so that a folder with one is whole.

    Args:
        folder: made if it is not there.
        title: heading of the page.
        before: what each result was made of, a row each; None where there is nothing to hear.
        after: the results.
        record: all that they follow from, as JSON holds it.
        subtype: of the WAV files, as for `audio.write`.
        nearest: the training clip beside each result, if that was asked for.

    Returns:
        the WAV files of the results
    """
    columns = []
    for name, sounds in {"before": before, "after": after}.items():
        files: list[Path | None] = []
        for i, sound in enumerate(sounds):
            if sound is not None and i and sound is sounds[i - 1]:
                files.append(files[-1])
            elif sound is not None:
                files += page.write_sounds(folder, [sound.name], sound.waveform[None], sound.rate, subtype)
            else:
                files.append(None)
        columns.append(page.Column(name, files, reference=name == "before"))
    if nearest is not None:
        # Hidden, so that who takes the folder's sounds takes the results alone.
        clips = [
            page.write_sounds(folder / NEIGHBOURS, [sound.name], one.clip.waveform[None], one.clip.rate, subtype)[0]
            for sound, one in zip(after, nearest, strict=True)
        ]
        columns.append(page.Column("nearest training clip", clips, captions=[one.told for one in nearest]))
    page.write(folder / "index.html", title, [sound.name for sound in after], columns, _note(record))
    results = [
        {
            "file": file.name,
            "peak_dbfs": peak_dbfs(sound.waveform[None])[0],
            "seconds": round(len(sound.waveform) / sound.rate, 4),
        }
        for file, sound in zip(columns[1].sounds, after, strict=True)
    ]
    for result, one in zip(results, nearest or [], strict=False):
        result["neighbour"] = plain(one.record)
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(json.dumps({**plain(record), "results": results}, indent=1), encoding="utf-8")
    return columns[1].sounds


def _note(record: dict[str, Any]) -> str:
    files = ", ".join(printable(str(one["path"])) for one in record["files"])
    return f"{record['operation']} of {files}; {record['model']['path']}, step {record['model']['step']:,}"

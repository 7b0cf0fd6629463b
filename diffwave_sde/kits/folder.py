"""A kit's folder: what this program wrote may be written anew, anything else is left alone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.names import printable

RECORD = "kit.json"
SAMPLES = "Samples/"
MADE = ".made"
"""Where the sounds lie as the model made them: another format, rate or level is made of them again."""

_PROGRAM = "diffwave-sde kit"


class KitFolder:
    """A folder that holds a kit: its samples, presets and archives, `kit.json`, and the sounds as they were made.

    Args:
        path: the folder.
        made: all that the sounds follow from but their classes and numbers, as JSON holds it.

    Raises:
        ValueError: if the folder holds the sounds of another record, or a `kit.json` that is of no kit.
    """

    def __init__(self, path: Path, made: Mapping[str, Any]):
        self.path, self.made = path, _plain(made)
        try:
            old = json.loads((path / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            old = None
        except (OSError, ValueError):
            old = {}
        if old is not None and (not isinstance(old, dict) or old.get("program") != _PROGRAM):
            raise ValueError(f"{path / RECORD} is of no kit: choose another --out")
        if old is not None and old["made"] != self.made:
            theirs = old["made"]
            differs = next(k for k in {**theirs, **self.made} if theirs.get(k) != self.made.get(k))
            raise ValueError(
                f"{path} holds a kit of another {differs} ({theirs.get(differs)}, not {self.made.get(differs)}): "
                "choose another --out"
            )
        # Name -> digests of what was written, or was about to be.
        self.digests: dict[str, list[str]] = old["files"] if old else {}
        self.facts: dict[str, Any] = old["kit"] if old else {}

    def refuse(self, names: Iterable[str]) -> None:
        """Raise a ValueError if a file of these names is not of this program's making, or was changed since."""
        for name in names:
            file = self.path / name
            if file.exists() and not self._is_own(name):
                shown = printable(os.path.normpath(file))
                raise ValueError(f"{shown} is not of this kit, or was changed since: move it, or choose another --out")

    def _is_own(self, name: str) -> bool:
        try:
            return digest((self.path / name).read_bytes()) in self.digests.get(name, [])
        except OSError:
            return False

    def _is_here(self, name: str) -> bool:
        """Whether a name of the record is one that a kit's file has: a record may come from anybody."""
        return Path(name).parts[:-1] in ((), ("Samples",)) or Path(name).with_suffix("") == Path("..") / self.path.name

    # The sounds as they were made

    def begin(self) -> None:
        """Make the folder and its record, so that what is made from now on belongs to it."""
        self._record()

    def sound(self, name: str) -> Tensor | None:
        """A sound (T,) that was made already, or None."""
        file = self.path / MADE / f"{name}.wav"
        try:
            return audio.decode(file)[0]
        except (OSError, ValueError):
            return None

    def keep(self, name: str, x: Tensor, rate: int) -> None:
        """Keep a sound (T,) as it was made."""
        audio.write(self.path / MADE / f"{name}.wav", x, rate)

    # What is taken away

    def write(self, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> tuple[int, int]:
        """Write all files of the kit, and remove those of this program's making that are no longer of it.

        Args:
            files: contents by name, relative to the folder; a name that begins with ../ lies beside it.
            facts: what the record tells of the kit.

        Returns:
            how many files were written, and how many were there already

        Raises:
            ValueError: as of `refuse`.
        """
        self.refuse(files)
        old, new = dict(self.digests), {name: digest(data) for name, data in files.items()}
        # First what is going to be: a file that is written before a stop is known for this program's.
        self.digests = {name: [*old.get(name, []), new[name]] if name in new else old[name] for name in {**old, **new}}
        self._record()
        written = 0
        for name, data in files.items():
            file = self.path / name
            if file.exists() and digest(file.read_bytes()) == new[name]:
                continue
            with atomic_write(file) as temporary:
                temporary.write_bytes(data)
            written += 1
        for name in set(old) - set(new):
            if self._is_here(name) and self._is_own(name):
                (self.path / name).unlink()
        self.digests, self.facts = {name: [value] for name, value in new.items()}, _plain(facts)
        self._record()
        return written, len(files) - written

    def _record(self) -> None:
        text = record(self.made, self.facts, self.digests)
        file = self.path / RECORD
        if not file.is_file() or file.read_bytes() != text:
            with atomic_write(file) as temporary:
                temporary.write_bytes(text)


def record(made: Mapping[str, Any], facts: Mapping[str, Any], digests: Mapping[str, list[str]]) -> bytes:
    """The text of `kit.json`."""
    content = {"program": _PROGRAM, "made": _plain(made), "kit": _plain(facts), "files": dict(sorted(digests.items()))}
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def packed(name: str, files: Mapping[str, bytes]) -> bytes:
    """A zip of files in a folder called `name`: the same files are the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            entry = zipfile.ZipInfo(f"{name}/{file}")  # of 1980, whenever it is packed
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return data.getvalue()


def digest(data: bytes) -> str:
    """What tells contents apart."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(facts: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(facts, default=str))

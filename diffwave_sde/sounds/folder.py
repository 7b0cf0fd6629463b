"""A folder of made sounds that grows batch by batch, and goes on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.names import printable
from diffwave_sde.sounds import page

NEIGHBOURS = ".neighbours"
"""The folder, in one of made sounds, with the training clips that they are nearest to."""

CONTEXT, MIXES = ".context", ".mixes"
"""The folders, in one of made sounds, with what they go with, and with both together."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

Draw = Callable[[list[int], Progress], tuple[Tensor, int]]
"""From the numbers of n sounds: waveforms (n, T), and the network calls that each took."""


@dataclass(frozen=True)
class Filled:
    """What filling a folder came to.

    kept: sounds that were there already.
    made: new sounds.
    audio: seconds of new sound.
    seconds: that making them took, without writing them.
    """

    kept: int
    made: int
    audio: float
    seconds: float


class SoundFolder:
    """A folder of sounds: WAV files with pictures, `sounds.json` and `index.html`, at any time of one another.

    Sounds that it holds already, made in the same way, are kept: what was stopped goes on, or is extended. What
    does not print is spelt as in `names` there.

    Args:
        path: the folder.
        record: all that the sounds follow from but their numbers and classes, as JSON holds it.
        note: a line for the page, in which `{nfe}` stands for the network calls that a sound took.
        subtype: of the WAV files, as for `audio.write`.
    """

    def __init__(self, path: Path, record: dict[str, Any], note: str = "", subtype: str = "FLOAT"):
        self.path, self.note, self.subtype = path, note, subtype
        self.record = plain(record)
        self.nfe, self.sounds, self.neighbours, self.context = 0, {}, None, None
        try:
            old = json.loads((path / "sounds.json").read_text(encoding="utf-8"))
            if {k: old.get(k) for k in self.record} == self.record:
                self.nfe, self.neighbours, self.context = old["nfe"], old.get("neighbours"), old.get("context")
                self.sounds = {s["number"]: s for s in old["sounds"] if (path / s["file"]).is_file()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # no sounds yet, or none that it could tell anything of

    @property
    def beyond(self) -> list[dict[str, Any]]:
        """The sounds whose peak lies beyond full scale, the loudest first: players cut them."""
        loud = [sound for sound in self.sounds.values() if sound["peak_dbfs"] > 0]
        return sorted(loud, key=lambda sound: -sound["peak_dbfs"])

    def holds(self, number: int, label: str) -> bool:
        """Whether sound `number` of this class is there."""
        return self.sounds.get(number, {}).get("label") == printable(label)

    def fill(
        self,
        labels: Sequence[str],
        draw: Draw,
        rate: int,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Filled:
        """Make what the folder lacks, batch by batch; what is made is there even if the next batch fails.

        Args:
            labels: the class of each sound, from number 0 on.
            draw: what makes them.
            rate: Hz.
            batch_size: sounds made at a time.
            progress: called with (sounds made, as a fraction in the middle of a batch; sounds in all).
        """
        missing = [i for i, label in enumerate(labels) if not self.holds(i, label)]
        samples, seconds = 0, 0.0
        for first in range(0, len(missing), batch_size):
            numbers = missing[first : first + batch_size]
            done = len(labels) - len(missing) + first

            def report(step: int, steps: int, done: int = done, more: int = len(numbers)) -> None:
                if progress is not None:
                    progress(done + more * step / steps, len(labels))

            began = time.perf_counter()
            sounds, nfe = draw(numbers, report)
            seconds += time.perf_counter() - began
            samples += sounds.numel()
            self.add(numbers, [labels[i] for i in numbers], sounds, rate, nfe)
        return Filled(len(labels) - len(missing), len(missing), samples / rate, seconds)

    def add(self, numbers: Sequence[int], labels: Sequence[str], sounds: Tensor, rate: int, nfe: int) -> None:
        """Write sounds (n, T), and the list and the page of all there are."""
        titles = [f"{i:03d} {label}" for i, label in zip(numbers, labels, strict=True)]
        files = page.write_sounds(self.path, titles, sounds, rate, self.subtype)
        for i, file, label, peak in zip(numbers, files, labels, peak_dbfs(sounds), strict=True):
            self.sounds[i] = {"number": i, "file": file.name, "label": printable(label), "peak_dbfs": peak}
        self.sounds = dict(sorted(self.sounds.items()))
        self.nfe = max(self.nfe, nfe)
        self._write()

    def add_neighbours(
        self,
        numbers: Sequence[int],
        records: Sequence[dict[str, Any]],
        clips: Tensor,
        rate: int,
        about: dict[str, Any],
    ) -> None:
        """Tell of sounds that are there which training clip each is nearest to; it is heard beside it on the page.

        Args:
            numbers: of the sounds.
            records: what is told of each, as JSON holds it; "told" is for a reader.
            clips: the training clips (n, T).
            rate: Hz.
            about: what they were compared with.
        """
        titles = [f"{i:03d} {record['label']}" for i, record in zip(numbers, records, strict=True)]
        # Hidden: whoever reads the folder for sounds, to evaluate them or to make a kit, is to find made ones alone.
        files = page.write_sounds(self.path / NEIGHBOURS, titles, clips, rate, self.subtype)
        for i, record, file in zip(numbers, records, files, strict=True):
            self.sounds[i]["neighbour"] = {**spelt(record), "heard": f"{NEIGHBOURS}/{file.name}"}
        self.neighbours = spelt(about)
        self._write()

    def add_context(self, numbers: Sequence[int], context: Tensor, rate: int) -> None:
        """Let sounds that are there be heard beside what they go with, and together with it.

        Args:
            numbers: of the sounds.
            context: (T,), of their length, at their level; or (n, T), one for each.
            rate: Hz.
        """
        own = context.ndim == 2
        titles = [f"{i:03d} context" for i in numbers] if own else ["context"]
        heard = page.write_sounds(self.path / CONTEXT, titles, context if own else context[None], rate, self.subtype)
        self.context = f"{CONTEXT}/{heard[0].name}"
        for k, i in enumerate(numbers):
            sound = self.sounds[i]
            if own:
                sound["context"] = f"{CONTEXT}/{heard[k].name}"
            if "mix" not in sound:
                both = (context[k] if own else context) + audio.read(self.path / sound["file"], rate)[0]
                [mix] = page.write_sounds(self.path / MIXES, [Path(sound["file"]).stem], both[None], rate, "FLOAT")
                sound["mix"] = f"{MIXES}/{mix.name}"
        self._write()

    def _write(self) -> None:
        sounds = list(self.sounds.values())
        told = {"neighbours": self.neighbours, "context": self.context}
        told = {name: value for name, value in told.items() if value is not None}
        with atomic_write(self.path / "sounds.json") as temporary:
            text = json.dumps({**self.record, "nfe": self.nfe, **told, "sounds": sounds}, indent=1)
            temporary.write_text(text, encoding="utf-8")
        titles = [f"{s['number']:03d} {s['label']}" for s in sounds]
        columns = [page.Column("sounds", [self.path / s["file"] for s in sounds])]
        if self.context is not None:
            columns[0] = page.Column("part", columns[0].sounds)
            heard = [self.path / sound.get("context", self.context) for sound in sounds]
            columns.insert(0, page.Column("context", heard))
            mixes = [self.path / s["mix"] if "mix" in s else None for s in sounds]
            columns.append(page.Column("mix", mixes))
        near = [s.get("neighbour") for s in sounds]
        if any(near):
            heard = [self.path / one["heard"] if one else None for one in near]
            captions = [one["told"] if one else "" for one in near]
            columns.append(page.Column("nearest training clip", heard, captions=captions))
        page.write(self.path / "index.html", "New sounds", titles, columns, self.note.replace("{nfe}", str(self.nfe)))


def peak_dbfs(sounds: Tensor) -> list[float]:
    """The peaks of sounds (n, T), dBFS, to a hundredth; -120 of silence."""
    return [round(peak, 2) for peak in (20 * sounds.abs().amax(1).clamp_min(1e-6).log10()).tolist()]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it comes back from a JSON file, `spelt`; what JSON does not hold is text there."""
    return json.loads(json.dumps(spelt(record), default=str))


def spelt(value: Any) -> Any:
    """The same with all text in it, keys too, made printable."""
    if isinstance(value, dict):
        return {spelt(k): spelt(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelt(v) for v in value]
    return printable(value) if isinstance(value, str) else value

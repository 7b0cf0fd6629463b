"""New sounds in a folder that a DAW or a sampler looks into, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from diffwave_sde import audio
from diffwave_sde.kits.making import PROGRAM, ask, titles
from diffwave_sde.kits.mastering import Mastering, amplified
from diffwave_sde.kits.source import Source
from diffwave_sde.names import printable


@dataclass(frozen=True)
class Dropped:
    """A sound that was put into the folder.

    file: the WAV file.
    gain: dB by which it is louder than the model made it.
    peak: level of its peak, dBFS.
    seconds: how long it is.
    """

    file: Path
    gain: float
    peak: float
    seconds: float


def drop(
    source: Source,
    folder: Path,
    asked: Mapping[str, int],
    mastering: Mastering,
    subtype: str = "PCM_24",
) -> Iterator[Dropped]:
    """Put sounds into a folder without end, each whole or not at all; no file that is there is touched.

    The classes take turns, each with as many sounds in a row as are asked for. A sound's number goes on from the
    highest that the folder holds of its class, `Kick 7.wav`, and the sound follows from that number and the seed.

    Args:
        source: what makes them.
        folder: made if it is not there.
        asked: sounds in a row by class or mix of classes, as a person types them.
        mastering: how they are finished. Levels for a `kit` are for each sound: lowered where it is too loud, only.
        subtype: of the WAV files.

    Raises:
        ValueError: if the model does not know a class, or no sound is asked for.
        OSError: if the folder cannot be written.
    """
    labels = ask(source, asked)
    facts = source.facts()
    row = [place for place, count in enumerate(asked.values()) for _ in range(count)]
    if not row:
        raise ValueError("no sounds are asked for: name a class, such as kick=4")
    names = titles(labels.names)
    folder.mkdir(parents=True, exist_ok=True)
    begun = [_highest(folder, name) for name in names]
    for place in cycle(row):
        number, title = begun[place], names[place]
        begun[place] += 1
        x = source.draw(labels, [place], [number])[0]
        x = mastering.prepared(x, source.model.rate)
        gain = mastering.lowered(x)
        x = amplified(x, gain)
        file = folder / f"{title} {number + 1}.wav"
        while file.exists():  # since the folder was looked through
            begun[place] += 1
            file = folder / f"{title} {begun[place]}.wav"
        label = printable(labels.names[place])
        info = {
            "INAM": file.stem,
            "IGNR": label,
            "ICMT": source.comment(facts, label, number, "") + f"; gain {gain:+.2f} dB",
            "ICOP": source.told_licence(),
            "ISFT": PROGRAM,
        }
        audio.write(file, x, mastering.rate, subtype, info)
        peak = 20 * float(x.abs().max().clamp_min(1e-6).log10())
        yield Dropped(file, gain, peak, len(x) / mastering.rate)


def _highest(folder: Path, title: str) -> int:
    """The highest number that a sound of this title has in the folder; 0 for none."""
    pattern = re.compile(re.escape(title) + r" (\d+)\.wav", re.IGNORECASE)
    return max((int(found[1]) for file in folder.iterdir() if (found := pattern.fullmatch(file.name))), default=0)

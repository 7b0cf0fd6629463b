"""A kit made with a model: sounds and their variations, their order, keys and levels, and the files of it all.

In Python::

    source = Source(checkpoint.load("drums"), seed=3)
    make_kit(source, "my-kit", {"kick": 4, "snare": 4, "cymbal": 8}, Package(formats=("sfz", "hydrogen")))
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diffwave_sde import __version__, audio, generate
from diffwave_sde.generate import Labels
from diffwave_sde.kits import decent, hits, hydrogen, keys, sfz
from diffwave_sde.kits.folder import RECORD, SAMPLES, KitFolder, digest, packed, record
from diffwave_sde.kits.kit import Instrument, Kit, layered
from diffwave_sde.kits.mastering import Mastering, amplified
from diffwave_sde.kits.source import Progress, Source
from diffwave_sde.names import cut, printable

FORMATS = ("sfz", "hydrogen", "decentsampler", "wav")
PROGRAM = f"diffwave-sde {__version__}"


@dataclass(frozen=True)
class Package:
    """What a kit is taken away as.

    name: of the kit; that of its folder by default.
    formats: sfz, hydrogen, decentsampler; the WAV files are there in any case.
    subtype: of the WAV files: PCM_24, PCM_16 or FLOAT.
    layers: ranges of velocities, each with variations of its own.
    robins: variations that are played in turn.
    strength: how far a variation is from its sound, 0 to 1, as of `diffwave-sde edit vary`.
    mastering: rate, level and ends of the sounds.
    zipped: whether the folder is packed as a zip beside it, and a Decent Sampler preset as a .dslibrary.
    """

    name: str | None = None
    formats: tuple[str, ...] = ("sfz",)
    subtype: str = "PCM_24"
    layers: int = 1
    robins: int = 1
    strength: float = 0.25
    mastering: Mastering = field(default_factory=Mastering)
    zipped: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise ValueError(f"format {name}: choose of {', '.join(FORMATS)}")
        for name, value in (("layers", self.layers), ("robins", self.robins)):
            if not 1 <= value <= 127:
                raise ValueError(f"{name} = {value}: must lie between 1 and 127")
        if "hydrogen" in self.formats and self.hits > hydrogen.MOST:
            raise ValueError(
                f"layers = {self.layers} of {self.robins} robins are {self.hits} samples of a key, and Hydrogen takes "
                f"{hydrogen.MOST}: choose fewer"
            )
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength = {self.strength:g} must lie above 0, the sound itself, and up to 1, a new one")

    @property
    def hits(self) -> int:
        """Samples of each instrument."""
        return self.layers * self.robins


@dataclass(frozen=True)
class Made:
    """What came of it.

    kit: the kit.
    folder: where it is.
    files: the presets and archives, relative to the folder.
    gains: of each instrument, dB.
    beyond: WAV files whose peak lies above full scale.
    sounds: how many were made by the model, and how many were there already.
    """

    kit: Kit
    folder: Path
    files: tuple[str, ...]
    gains: tuple[float, ...]
    beyond: int
    sounds: tuple[int, int]


@dataclass(frozen=True)
class _Place:
    """One instrument to be: number `number` of what stands at `place` in the labels."""

    place: int
    number: int
    name: str


def make_kit(
    source: Source,
    out: str | Path,
    asked: Mapping[str, int],
    package: Package | None = None,
    more: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Made:
    """Make a kit, or what its folder lacks of it.

    Args:
        source: what makes the sounds.
        out: the folder.
        asked: how many of each class or mix of classes, as a person types them (`generate.ask`).
        package: what it is taken away as.
        more: what else the sounds follow from. A folder keeps only sounds of the same record.
        progress: called with (sounds made, as a fraction in the middle of a batch; sounds in all).

    Raises:
        ValueError: if the model does not know a class, there are too many instruments, or a file is in the way.
        OSError: if the folder cannot be written.
    """
    package = package or Package()
    labels = ask(source, asked)
    places = [
        _Place(place, number, f"{title} {number + 1}")
        for place, (title, count) in enumerate(zip(titles(labels.names), asked.values(), strict=True))
        for number in range(count)
    ]
    if not places:
        raise ValueError("a kit has at least one sound: ask for some, such as kick=4")
    keys.assign([keys.Hit(labels.names[p.place], 0.0, 0.0) for p in places])  # which fails before the work is done
    folder = KitFolder(Path(out).resolve(), {**source.facts(), **(more or {})})
    name = _fit(package.name or "") or _fit(folder.path.name) or "kit"
    files = [file for p in places for file in _files(p.name, package)]
    folder.refuse([*(SAMPLES + file for file in files), *_presets(name, package), *_archives(folder.path, package)])
    folder.begin()
    raw, counts = _sounds(source, labels, places, package, folder, progress)
    # In the order of how hard they are hit, under the names of their layers and turns.
    mastered = [[package.mastering.prepared(x, source.model.rate) for x in one] for one in raw]
    orders = [hits.softest_first(one, package.mastering.rate) for one in mastered]
    gains = package.mastering.gains(mastered)
    kit = Kit(
        name,
        tuple(_instruments(labels, places, mastered, package)),
        f"made by {PROGRAM}, model {source.name}, seed {source.seed}",
        source.told_licence(),
    )
    wavs, told, beyond = {}, [], 0
    for place, instrument, sounds, order, gain in zip(places, kit.instruments, mastered, orders, gains, strict=True):
        facts = {"name": instrument.name, "class": instrument.label, "key": instrument.key, "part": instrument.part}
        facts |= {"choke": instrument.choke, "number": place.number, "gain_db": round(gain, 2), "samples": []}
        for sample, which in zip(instrument.samples, order, strict=True):
            x = amplified(sounds[which], gain)
            variation = f", variation {which} of strength {package.strength:g}" if which else ""
            info = {
                "INAM": Path(sample.file).stem,
                "IPRD": kit.name,
                "IGNR": printable(instrument.label),
                "ICMT": source.comment(folder.made, printable(instrument.label), place.number, variation)
                + f"; gain {gain:+.2f} dB",
                "ICOP": kit.licence,
                "ISFT": PROGRAM,
            }
            wavs[sample.file] = audio.encode(x, package.mastering.rate, package.subtype, info)
            peak = float(x.abs().max())
            beyond += peak > 1
            facts["samples"].append(
                {
                    "file": SAMPLES + sample.file,
                    "velocities": [sample.low, sample.high],
                    "turn": sample.turn,
                    "variation": which,
                    "seconds": round(len(x) / package.mastering.rate, 4),
                    "peak_dbfs": round(20 * float(x.abs().max().clamp_min(1e-6).log10()), 2),
                    "centroid_hz": round(hits.brightness(x, package.mastering.rate)),
                }
            )
        told.append(facts)
    facts = {
        "name": kit.name, "version": __version__, "licence": kit.licence, "rate": package.mastering.rate,
        "subtype": package.subtype, "strength": package.strength if package.hits > 1 else None, "instruments": told,
    }  # fmt: skip
    contents = contents_of(kit, wavs, package, folder, facts)
    folder.write(contents, facts)
    presets = (*_presets(name, package), *_archives(folder.path, package))
    return Made(kit, folder.path, presets, tuple(gains), beyond, counts)


def ask(source: Source, asked: Mapping[str, int]) -> Labels:
    """What the classes and mixes are to the model, one place each."""
    if not source.model.module.denoiser.net.classes:
        return generate.ask(source.model, len(asked))
    return generate.ask(source.model, len(asked), ",".join(asked))


def titles(names: Sequence[str]) -> list[str]:
    """Classes as a musician writes them, fit for files on any system and told apart there: kick -> Kick."""
    found: list[str] = []
    for name in names:
        title = " ".join(word[0].upper() + word[1:] for word in _fit(name).split()) or "Sound"
        same = [other for other in found if re.sub(r" \([a-z]+\)$", "", other).casefold() == title.casefold()]
        found.append(f"{title} ({chr(ord('a') + len(same))})" if same else title)
    return found


def _fit(text: str) -> str:
    """Text as the name of a file on any system, spaces and all."""
    return cut(re.sub(r"[^\w.-]+", " ", printable(text)).strip(" .-_"), 80).strip()


def _files(name: str, package: Package) -> list[str]:
    """The WAV files of an instrument, from the softest hit to the hardest."""
    layer = [f" v{i + 1}" for i in range(package.layers)] if package.layers > 1 else [""]
    turn = [f" r{i + 1}" for i in range(package.robins)] if package.robins > 1 else [""]
    return [f"{name}{v}{r}.wav" for v in layer for r in turn]


def _presets(name: str, package: Package) -> list[str]:
    suffixes = {"sfz": sfz.SUFFIX, "hydrogen": hydrogen.SUFFIX, "decentsampler": decent.SUFFIX}
    return [name + suffixes[one] for one in suffixes if one in package.formats]


def _archives(path: Path, package: Package) -> list[str]:
    if not package.zipped:
        return []
    library = [f"../{path.name}{decent.LIBRARY}"] if "decentsampler" in package.formats else []
    return [f"../{path.name}.zip", *library]


def contents_of(
    kit: Kit, wavs: Mapping[str, bytes], package: Package, folder: KitFolder, facts: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files of a kit by their names relative to its folder."""
    contents = {SAMPLES + name: data for name, data in wavs.items()}
    if "sfz" in package.formats:
        contents[kit.name + sfz.SUFFIX] = sfz.text(kit, SAMPLES).encode()
    if "hydrogen" in package.formats:
        contents[kit.name + hydrogen.SUFFIX] = hydrogen.archive(kit, wavs)
    if "decentsampler" in package.formats:
        contents[kit.name + decent.SUFFIX] = decent.xml(kit, SAMPLES)
    inside = dict(contents)
    for archive in _archives(folder.path, package):
        if archive.endswith(decent.LIBRARY):
            wanted = {name: data for name, data in inside.items() if name.endswith((decent.SUFFIX, ".wav"))}
        else:
            about = record(folder.made, facts, {name: [digest(data)] for name, data in inside.items()})
            wanted = {**inside, RECORD: about}
        contents[archive] = packed(kit.name, wanted)
    return contents


def _instruments(
    labels: Labels, places: Sequence[_Place], sounds: Sequence[Sequence[Tensor]], package: Package
) -> list[Instrument]:
    """The instruments, on their keys."""
    rate = package.mastering.rate
    measured = [
        keys.Hit(labels.names[place.place], hits.decay(one[0], rate), hits.brightness(one[0], rate))
        for place, one in zip(places, sounds, strict=True)
    ]
    return [
        Instrument(
            place.name, hit.label, key.note, layered(_files(place.name, package), package.layers), key.part, key.choke
        )
        for place, hit, key in zip(places, measured, keys.assign(measured), strict=True)
    ]


def _sounds(
    source: Source,
    labels: Labels,
    places: Sequence[_Place],
    package: Package,
    folder: KitFolder,
    progress: Progress | None,
) -> tuple[list[list[Tensor]], tuple[int, int]]:
    """The sounds of each instrument as the model makes them, itself first; and how many were made and kept."""
    rate, total = source.model.rate, len(places) * package.hits
    found = [[folder.sound(name) for name in _raw(place.name, package)] for place in places]
    kept = done = sum(x is not None for one in found for x in one)

    def report(more: int) -> Progress:
        """What tells how far a batch of so many is."""

        def told(step: int, steps: int) -> None:
            if progress is not None:
                progress(done + more * step / max(steps, 1), total)

        return told

    missing = [i for i, one in enumerate(found) if one[0] is None]
    for first in range(0, len(missing), source.batch_size):
        some = missing[first : first + source.batch_size]
        made = source.draw(
            labels,
            [places[i].place for i in some],
            [places[i].number for i in some],
            report(len(some)),
        )
        for i, x in zip(some, made, strict=True):
            folder.keep(_raw(places[i].name, package)[0], x, rate)
            found[i][0] = x
        done += len(some)
    for place, one in zip(places, found, strict=True):
        lacking = [v for v, x in enumerate(one) if x is None]
        if not lacking:
            continue
        made = source.vary(
            one[0], labels, place.place, place.number, lacking, package.strength,
            report(len(lacking)),
        )  # fmt: skip
        for v, x in zip(lacking, made, strict=True):
            folder.keep(_raw(place.name, package)[v], x, rate)
            one[v] = x
        done += len(lacking)
    return found, (done - kept, kept)


def _raw(name: str, package: Package) -> list[str]:
    """The names of a sound and its variations as they were made."""
    return [name, *(f"{name} variation {v} of {package.strength:g}" for v in range(1, package.hits))]

"""What a dataset's name stands for: a list of sounds, each of which can be loaded on its own.

    "drums", "synth"          built-in sounds, made on the spot         Rendered
    "hydrogen", "sonic-pi"    packages of recordings                    Recorded
    "fluid", "musescore"      packages of a SoundFont                   soundfont.Sample
    "drums-free"              drums of all these that may be given away
    x.sf2, x.sf3              a SoundFont's drum kits                   soundfont.Sample
    x.sfz, x.h2drumkit        a kit, SFZ's or Hydrogen's                Recorded
    a path                    a folder of recordings                    Recorded
    "loops"                   built-in drum loops                       loops.Loop
    "bass"                    built-in pairs: an arrangement, its bass     pairs.Arranged
    NAME/mix, NAME/part       in a folder: pairs of one's own stems     pairs.Stems
    "drums + a path"          all that the parts stand for

All kinds of item answer `load(length)`, and are small and picklable: they travel to worker processes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from diffwave_sde import audio
from diffwave_sde.data import builtin, kits, loops, pairs, recordings, soundfont
from diffwave_sde.data.filter import Filter
from diffwave_sde.data.items import Recorded, Rendered, Source, built_in
from diffwave_sde.names import digest, escape
from diffwave_sde.paths import expand

# Clearly not sounds. Whatever else is not one is found out by trying.
NOT_AUDIO = frozenset(
    re.findall(
        r"\w+",
        "txt csv tsv json jsonl xml html htm css js md rst rtf pdf doc docx yml yaml toml ini cfg conf log nfo url "
        "py sh bat exe dll db sql zip gz bz2 xz 7z rar tar tgz deb png jpg jpeg gif bmp svg webp ico psd mp4 mov "
        "avi mid midi sfz sf2 sf3 nki nkx asd als h2song h2drumkit h2pattern m3u pls cue npy npz pt ckpt",
    )
)


def parts(dataset: str) -> list[str]:
    r"""The names that a dataset's name is made of: "drums + sonic-pi" -> ["drums", "sonic-pi"].

    `\+` is a plus that separates nothing, and so is one in the name of a folder or file that is all there is.
    """
    try:
        if expand(dataset).exists():
            return [dataset]
    except ValueError:  # a variable that is not set: told of the part in which it stands
        pass
    names = [""]
    for token in re.findall(r"\\.|.", dataset, re.DOTALL):
        if token == "+":
            names.append("")
        else:
            names[-1] += token
    return [name.strip() for name in names]


def find(
    dataset: str,
    root: Path,
    count: int,
    seed: int,
    say: Callable[[str], None],
    only: Filter | None = None,
    length: int = audio.LENGTH,
    rate: int = audio.RATE,
    part: str | None = None,
) -> Source:
    """Lists the sounds of a dataset, or of several joined by "+"; packages are fetched if need be.

    `length` (samples) and `rate` (Hz) are those of the windows that pairs are cut into; one-shots have one rate. `part`
    is which stem of a folder of songs is the part, as of `pairs.find_stems`.

    Raises:
        ValueError: if `dataset` is neither a known name nor a folder, or holds nothing of what is wanted
        OSError: as `recordings.fetch`
    """
    names = parts(dataset)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{dataset}: names {twice[0]} twice")
    try:
        found = [_find(name, root, count, seed, say, length, rate, part) for name in names]
    except ValueError as error:
        if len(names) > 1 and "folder" in str(error):
            raise ValueError(f"{error}; a plus in a name is typed \\+") from error
        raise
    source = found[0]
    if len({part.paired for part in found}) > 1:
        pair = next(part.name for part in found if part.paired)
        raise ValueError(
            f"{dataset}: {pair} holds pairs of a context and its part, and no one-shots: train on it alone"
        )
    if other := next((part for part in found if part.rate != rate), None):
        raise ValueError(
            f"data.rate = {rate}: pairs and loops alone have a rate of their own; {other.name} has {other.rate} Hz"
        )
    if len(found) > 1:
        source = Source(
            "+".join(part.name for part in found),
            [item for part in found for item in part.items],
            digest(*(part.inputs.encode() for part in found)),
            " + ".join(part.origin for part in found),
            [line for part in found for line in part.refused],
            source.rate,
            source.paired,
        )
    return only.of(source) if only and only != Filter() else source


def _find(
    dataset: str,
    root: Path,
    count: int,
    seed: int,
    say: Callable[[str], None],
    length: int,
    rate: int,
    part: str | None,
) -> Source:
    """What one name stands for."""
    if part is not None and not expand(dataset).is_dir():
        raise ValueError(f"data.part = {part}: of a folder of stems, NAME/{part}.wav beside others, not of {dataset}")
    if dataset == pairs.COLLECTION:
        return pairs.built(count, seed, rate)
    if dataset == loops.COLLECTION:
        return loops.built(count, seed, length, rate)
    if dataset in builtin.VOICES:
        recipes = sorted(Path(builtin.__file__).parent.glob("*.py"))
        return built_in(dataset, count, seed, partial(Rendered, dataset, seed=seed), recipes)
    if dataset in recordings.COLLECTIONS:
        names = " + ".join(recordings.COLLECTIONS[dataset])
        free = find(names, root, count, seed, say, Filter(recordings.DRUMS, recordings.FREE))
        return replace(free, name=dataset)
    if dataset in recordings.PACKAGES:
        return _package(dataset, root, say)
    path = expand(dataset)
    if dataset and path.suffix.lower() in _FILES and path.is_file():
        return _FILES[path.suffix.lower()](path.resolve(), root)
    if dataset and (path / kits.DRUMKIT).is_file():
        return _kit(path.resolve(), kits.hydrogen(path.resolve()), path.name, path / kits.DRUMKIT)
    if not dataset or not path.is_dir():
        known = ", ".join(
            [*builtin.VOICES, loops.COLLECTION, pairs.COLLECTION, *recordings.PACKAGES, *recordings.COLLECTIONS]
        )
        typed = dataset if dataset.isprintable() else escape(dataset)
        if os.sep in dataset or (dataset and path.exists()):
            kinds = f"a folder of sounds, a kit or SoundFont ({', '.join(sorted(_FILES))}) or one of {known}"
            why = "is not a folder" if path.exists() else "no such folder"
            raise ValueError(f"{typed}: {why}; a dataset is {kinds}")
        raise ValueError(f"unknown dataset '{typed}'; known: {known}, or the path of a folder of sounds")
    return _folder(path.resolve(), length, rate, part)


def _package(dataset: str, root: Path, say: Callable[[str], None]) -> Source:
    package = recordings.PACKAGES[dataset]
    home = recordings.fetch(dataset, root, say)
    place, origin = home / package.folder, f"Debian package {package.name}"
    if not place.exists():
        raise OSError(f"{place}: missing from the package {package.name}: remove {home} to fetch it anew")
    if package.label is None:
        return replace(_soundfont(place, root, package.licence), name=dataset, origin=origin)
    files, refused, inputs = scan(place)
    labels = package.label(place, files)
    notes = home / "copyright"
    licence = recordings.licences(notes, package.licence, files) if notes.is_file() else {}
    items = [Recorded(str(place), file, *labels[file], licence.get(file, "")) for file in files]
    # what the names are read as is code, and may change under the same files
    inputs = digest(inputs.encode(), *(f"{i.label} {i.group} {i.licence}".encode() for i in items))
    return Source(dataset, items, inputs, origin, refused)


def _soundfont(path: Path, root: Path, licence: str | None = None) -> Source:
    items = soundfont.samples(path, licence)
    here = path.stat()
    inputs = digest(f"{here.st_size} {here.st_mtime_ns} {items!r}".encode("utf-8", "surrogateescape"))
    return Source(_short(path.stem), items, inputs, escape(str(path)))


def _sfz(path: Path, root: Path) -> Source:
    return _kit(path.parent, kits.sfz(path), path.stem, path)


def _hydrogen(path: Path, root: Path) -> Source:
    here = path.stat()
    unpacked = root / "kits" / f"{_short(path.stem)}-{digest(f'{here.st_size} {here.st_mtime_ns} {path}'.encode())[:8]}"
    folder = kits.unpack(path, unpacked)
    return _kit(folder, kits.hydrogen(folder), path.stem, path)


_FILES: dict[str, Callable[[Path, Path], Source]] = {
    ".sf2": _soundfont,
    ".sf3": _soundfont,
    ".sfz": _sfz,
    ".h2drumkit": _hydrogen,
}
"""Files that are datasets by themselves, by how their names end."""


def _kit(folder: Path, found: Sequence[kits.Found], name: str, origin: Path) -> Source:
    """The files that a kit names, those that are not there refused."""
    there = [one for one in found if (folder / one.file).is_file()]
    items = [Recorded(str(folder), one.file, one.label, escape(name), "") for one in there]
    refused = [(one.file, f"named by {origin.name}, and not there") for one in found if one not in there]
    if not items:
        raise ValueError(f"{escape(str(origin))}: none of the {len(found)} files that it names is there")
    stamps = (f"{one.file} {one.label} {(folder / one.file).stat().st_mtime_ns}" for one in there)
    inputs = digest(*(stamp.encode("utf-8", "surrogateescape") for stamp in stamps))
    return Source(_short(name), items, inputs, escape(str(origin)), refused)


def _folder(folder: Path, length: int, rate: int, part: str | None) -> Source:
    files, refused, inputs = scan(folder)
    songs = pairs.find_stems(files, part)
    if part is not None and not songs:
        raise ValueError(
            f"data.part = {part}: no folder in {escape(str(folder))} holds {part}.wav, .flac or the like with other "
            "stems beside it"
        )
    if songs:
        taken = {f"{song}/{file}".lstrip("/") for song, context, mine in songs for file in (*context, mine)}
        others = [file for file in files if file not in taken]
        found = pairs.stems(folder, _short(folder.name), songs, others, inputs, length, rate)
        return replace(found, refused=[*refused, *found.refused])
    items = []
    for file in files:
        above = file.rpartition("/")[0]
        # the class is the folder that a file lies in, the kit whatever stands above that
        kit, _, label = above.rpartition("/")
        items.append(Recorded(str(folder), file, escape(label or folder.name), escape(kit), ""))
    if any("/" not in item.file for item in items):
        # the folder's own name labels the files that lie in it directly
        inputs = digest(inputs.encode(), os.fsencode(folder.name))
    return Source(_short(folder.name), items, inputs, escape(str(folder)), refused)


def _short(name: str) -> str:
    """A name fit for a folder's."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._") or "folder"


def scan(folder: Path) -> tuple[list[str], list[tuple[str, str]], str]:
    """Lists the files under a folder, in an order that depends on their names alone.

    Hidden files and what archivers leave behind (`__MACOSX`, `._x`) do not exist. Links are followed; a
    folder that is reached twice is read once, so a cycle ends.

    Returns:
        files, relative to the folder, with "/"; (file, reason) of those that cannot be sounds; a digest
        of names, sizes and times of change
    """
    files: list[str] = []
    refused: list[tuple[str, str]] = []
    stamp = hashlib.blake2b(digest_size=16)
    seen: set[tuple[int, int]] = set()

    def walk(path: str, relative: str) -> None:
        try:
            here = os.stat(path)
            if (here.st_dev, here.st_ino) in seen:
                return
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(path) as listing:
                # folders before links to them: the link is the copy
                entries = sorted(listing, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            refused.append((relative.rstrip("/"), f"unreadable: {error.strerror or error}"))
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            name = relative + entry.name
            try:
                found = entry.stat()
            except OSError as error:
                stamp.update(os.fsencode(f"{name}\0gone\0"))
                dangling = entry.is_symlink() and isinstance(error, FileNotFoundError)
                refused.append((name, "dangling link" if dangling else f"unreadable: {error.strerror or error}"))
                continue
            if stat.S_ISDIR(found.st_mode):
                walk(entry.path, name + "/")
                continue
            suffix = entry.name.rpartition(".")[2].lower()
            if suffix in NOT_AUDIO:
                refused.append((name, f"not audio: .{suffix}"))
            elif not stat.S_ISREG(found.st_mode):
                refused.append((name, "not a file"))  # opening a pipe would wait for ever
            else:
                files.append(name)
                stamp.update(os.fsencode(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0"))

    walk(str(folder), "")
    return files, refused, stamp.hexdigest()

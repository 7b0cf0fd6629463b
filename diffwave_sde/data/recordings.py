"""Real recordings from Debian's packages: fetched by name, unpacked without root, labelled by their names.

    apt-get download PACKAGE  ->  dpkg-deb -x  ->  root/recordings/PACKAGE/{usr/..., copyright}

A package is unpacked beside its place and moved there in one step: what lies there is whole. Its licences,
as the packagers collected them, stand beside the sounds in `copyright`, and `licences` reads from them the
licence of each file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock

# ------------------------------------------------------------------------------------------------- labels

# The first that matches wins: a "snare rimshot" is a snare, a "side stick" is percussion.
_DRUMS = tuple(
    (label, re.compile(pattern))
    for label, pattern in (
        ("clap", r"\b(hand ?)?clap"),
        ("percussion", r"side ?stick|\brim ?click|\bstick|cow ?bell|agogo|tambourine|djembe|conga|bongo|cajon"),
        ("snare", r"snare|\bs[nd]\b"),
        ("cymbal", r"hi ?hat|h?hat\b|\bhat|\b[cop]?hh|crash|\bcra\b|ride\b|\bride|splash|china|cymbal|paiste|zildjian"),
        ("tom", r"\btom|tom\b"),
        ("kick", r"kick|\bbd\b|bass ?drum|drum bass"),
    )
)


def words(name: str) -> str:
    """A file's name as lower-case words: "PearlSnareRimshot-Hard.wav" -> "pearl snare rimshot hard"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.rsplit(".", 1)[0])
    return re.sub(r"[^a-z]+", " ", name.lower()).strip()


def drum(name: str) -> str | None:
    """The kind of drum that a name speaks of, or None."""
    text = words(name)
    return next((label for label, pattern in _DRUMS if pattern.search(text)), None)


_FAMILIES = {
    "ambi": "ambience", "bass": "bass", "elec": "electronic", "guit": "guitar", "loop": "loop",
    "perc": "percussion", "tabla": "percussion", "drum": "percussion", "glitch": "effect",
    "mehackit": "effect", "misc": "effect", "vinyl": "effect",
}  # fmt: skip


def _hydrogen(home: Path, files: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Label and kit of each file. What its name does not tell, the kit's own list of instruments may."""
    instruments: dict[str, dict[str, str]] = {}
    found = {}
    for file in files:
        kit, name = file.split("/", 1) if "/" in file else ("", file)
        if kit not in instruments:
            instruments[kit] = _instruments(home / kit / "drumkit.xml")
        label = drum(name) or drum(instruments[kit].get(name, "")) or "percussion"
        found[file] = (label, kit)
    return found


def _instruments(path: Path) -> dict[str, str]:
    """Sound file -> name of the instrument that plays it, from a Hydrogen kit."""
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError):
        return {}
    named = {}
    for node in tree.iter():
        if node.tag.rpartition("}")[2] == "instrument":
            name = next((child.text for child in node if child.tag.rpartition("}")[2] == "name"), None)
            for child in node.iter():
                if child.tag.rpartition("}")[2] == "filename" and child.text and name:
                    named.setdefault(child.text, name)
    return named


def _sonic_pi(home: Path, files: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Drums first; the rest by the family that their names begin with. That family stands for the kit."""
    found = {}
    for file in files:
        family = file.rsplit("/", 1)[-1].split("_")[0]
        # "loop_tabla" and "bass_drop" are what their family says, whatever else they name
        known = drum(file) if family in ("bd", "sn", "sd", "drum", "elec", "perc") else None
        found[file] = (known or _FAMILIES.get(family, "effect"), family)
    return found


@dataclass(frozen=True)
class Package:
    """One of Debian's packages of sounds.

    name: of the package
    folder: where the sounds lie in it; or the SoundFont that holds them
    licence: what the paths in its copyright file look like; {file}, {kit} and {name} are filled in. Of a SoundFont: the
        licence itself, and who gave it
    megabytes: size of the download, for the reader of the progress line
    label: (folder, files) -> {file: (label, kit)}; None for a SoundFont, which tells itself
    """

    name: str
    folder: str
    licence: str
    megabytes: int
    label: Callable[[Path, Iterable[str]], dict[str, tuple[str, str]]] | None = None


PACKAGES: dict[str, Package] = {
    "hydrogen": Package(
        "hydrogen-drumkits", "usr/share/hydrogen/data/drumkits", "drumkits/{kit}.h2drumkit", 143, _hydrogen
    ),
    "sonic-pi": Package(
        "sonic-pi-samples", "usr/share/sonic-pi/samples", "etc/samples/{file}", 22, _sonic_pi
    ),
    "fluid": Package("fluid-soundfont-gm", "usr/share/sounds/sf2/FluidR3_GM.sf2", "MIT (Frank Wen)", 115),
    "musescore": Package(
        "musescore-general-soundfont-small", "usr/share/sounds/sf3/MuseScore_General_Lite.sf3",
        "MIT, parts CC0 (Frank Wen, Michael Cowgill, S. Christian Collins and others)", 33,
    ),
}  # fmt: skip

DRUMS = tuple(sorted(label for label, _ in _DRUMS))
"""The classes that `drum` tells apart."""

COLLECTIONS: dict[str, tuple[str, ...]] = {"drums-free": ("hydrogen", "sonic-pi", "fluid", "musescore")}
"""Packages by one name: their drums that may be given away."""

FREE = "MIT|CC0|Expat"
"""Licences, by a regular expression of their beginning, under which anything may be made of a sound, and given away."""

# ----------------------------------------------------------------------------------------------- licences


def licences(copyright: Path, pattern: str, files: Iterable[str]) -> dict[str, str]:
    """The licence of each file and who gave it, "CC0 (A. Person)", where the package's copyright file tells; else "".

    The last paragraph that matches a file is the one that holds.

    Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    rules: list[tuple[list[str], str]] = []
    for paragraph in re.split(r"\n\s*\n", copyright.read_text(encoding="utf-8", errors="replace")):
        fields = dict(re.findall(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", paragraph, re.MULTILINE))
        if "Files" in fields and "License" in fields:
            licence = fields["License"].strip().splitlines()[0].strip()
            # Names without their addresses: they stand in manifests and on the cards of models.
            names = re.sub(r"<[^>]*>", "", fields.get("Copyright", ""))
            by = ", ".join(" ".join(line.split()) for line in names.splitlines() if line.strip())
            rules.append((fields["Files"].split(), f"{licence} ({by})" if by else licence))
    found, known = {}, {}
    for file in files:
        kit = file.split("/", 1)[0]
        # a kit's archive may lack the version that its folder carries: "circAfrique v4"
        names = tuple(pattern.format(file=file, kit=k) for k in (kit, kit.split(" ")[0]))
        if names not in known:
            known[names] = next(
                (
                    licence
                    for name in names
                    for globs, licence in reversed(rules)
                    if any(fnmatchcase(name, glob) for glob in globs)
                ),
                "",
            )
        found[file] = known[names]
    return found


# ----------------------------------------------------------------------------------------------- fetching


def fetch(dataset: str, root: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Fetches and unpacks the package of a dataset, unless it is there.

    Args:
        dataset: one of `PACKAGES`
        root: the data folder; the package goes to root/recordings/
        say: told in one line that a download begins

    Returns:
        the folder of the unpacked package; the sounds lie in its `PACKAGES[dataset].folder`

    Raises:
        OSError: without apt, without a network, or if the package cannot be unpacked; the message says
            what to do instead
    """
    package = PACKAGES[dataset]
    home = root / "recordings" / package.name
    if home.is_dir():
        return home
    otherwise = "or point DATASET (--data.dataset) at a folder of sounds, or use the built-in drums or synth"
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise OSError(
                f"{dataset} comes from Debian's package {package.name} and needs {program}, which is not here: "
                f"unpack that package elsewhere and copy it to {home}, {otherwise}"
            )
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.parent / f".{package.name}.lock"):
        if home.is_dir():  # another process was faster
            return home
        work = home.with_name(f"{package.name}.partial")
        work.mkdir(exist_ok=True)
        if not list(work.glob("*.deb")):
            say(f"fetching {package.name} ({package.megabytes} MB) with apt-get")
            # into a folder of its own: only a whole file, checked by apt, moves up beside the tree
            (work / "download").mkdir(exist_ok=True)
            _run(["apt-get", "download", package.name], work / "download", package.name, otherwise)
            for file in (work / "download").glob("*.deb"):
                file.rename(work / file.name)
        archives = sorted(work.glob("*.deb"))
        if not archives:
            raise OSError(f"apt-get download {package.name} left no file: run `apt-get update`, {otherwise}")
        tree = work / "tree"
        shutil.rmtree(tree, ignore_errors=True)  # an unpacking that was cut short
        try:
            _run(["dpkg-deb", "-x", str(archives[-1].absolute()), str(tree.absolute())], work, package.name, otherwise)
        except OSError:
            archives[-1].unlink()  # broken: fetch it anew next time
            raise
        notes = tree / "usr" / "share" / "doc" / package.name / "copyright"
        if notes.is_file():
            shutil.copyfile(notes, tree / "copyright")
        tree.rename(home)
        shutil.rmtree(work, ignore_errors=True)
    return home


def _run(command: list[str], folder: Path, package: str, otherwise: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("W:")]
        reason = lines[-1].removeprefix("E: ") if lines else f"exit status {done.returncode}"
        raise OSError(
            f"{command[0]} could not provide {package}: {reason}; run `apt-get update` and retry, {otherwise}"
        )

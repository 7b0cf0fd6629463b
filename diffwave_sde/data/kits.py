"""Kits of samplers as sources of one-shots: SFZ files, and Hydrogen's drum kits.

Both are a text that names WAV or FLAC files and says what plays them. The class of a file is told by its own name, else
by that of its instrument, else by its key on the General MIDI drum map.

Source: the SFZ format (sfzformat.com: headers, opcodes, #define, #include); Hydrogen's drumkit.xml.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from diffwave_sde.data.recordings import drum
from diffwave_sde.data.soundfont import drum_of_key

DRUMKIT = "drumkit.xml"
MOST = 2 * 10**9  # bytes that an archive may unpack to: a header can claim any number


class Found(NamedTuple):
    """A file that a kit plays. file: relative to the kit's folder, with "/"; label: its class."""

    file: str
    label: str


def sfz(path: Path) -> list[Found]:
    """The files that an SFZ instrument plays, each once.

    Args:
        path: the .sfz file; its samples lie beside it or below.

    Raises:
        ValueError: if it names no samples, or includes a file that is not there.
    """
    text = _included(path, path.parent.resolve(), 0)
    for name, value in re.findall(r"#define\s+(\$\w+)\s+(\S+)", text):
        text = text.replace(name, value)
    text = re.sub(r"#define[^\n]*", "", text)
    found: dict[str, Found] = {}
    levels: dict[str, dict[str, str]] = {}
    folder = ""
    for head, body in re.findall(r"<(\w+)>([^<]*)", text):
        # An opcode's value ends where the next opcode begins: names of files hold spaces.
        opcodes = dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*\n|\s*$)", body, re.DOTALL))
        if head == "control":
            folder = opcodes.get("default_path", folder).replace("\\", "/")
            continue
        order = ("global", "master", "group", "region")
        if head not in order:
            continue
        for below in order[order.index(head) :]:
            levels.pop(below, None)
        levels[head] = opcodes
        if head == "region":
            every = {name: value for level in order for name, value in levels.get(level, {}).items()}
            file = every.get("sample", "").strip()
            if not file or file.startswith("*"):  # a wave that a player makes
                continue
            file = os.path.normpath(folder + file.replace("\\", "/"))
            if file.startswith(("..", "/")):
                raise ValueError(f"{path}: {file} lies outside of its folder")
            found.setdefault(file, Found(file, _class(file, every)))
    if not found:
        raise ValueError(f"{path}: an SFZ file that plays no samples")
    return list(found.values())


def _included(path: Path, home: Path, depth: int) -> str:
    """The text of an SFZ file without comments, with the files that it includes."""
    if depth > 10:
        raise ValueError(f"{path}: includes itself")
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)

    def other(match: re.Match) -> str:
        file = (home / match[1].replace("\\", "/")).resolve()
        if not file.is_relative_to(home):
            raise ValueError(f"{path}: includes {match[1]}, which lies outside of its folder")
        return _included(file, home, depth + 1)

    return re.sub(r'#include\s+"([^"]+)"', other, text)


def _class(file: str, opcodes: dict[str, str]) -> str:
    named = (
        drum(os.path.basename(file)) or drum(opcodes.get("region_label", "")) or drum(opcodes.get("group_label", ""))
    )
    if named:
        return named
    key = next((opcodes[name] for name in ("key", "lokey", "pitch_keycenter") if name in opcodes), "")
    return drum_of_key(_key(key.strip())) if key else "percussion"


def _key(text: str) -> int:
    """The number of a key: 36, or c2 (middle C is c4, 60); -1 for no key."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if match := re.fullmatch(r"([a-gA-G])([#b]?)(-?\d+)", text):
        step = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}[match[1].lower()]
        return step + {"#": 1, "b": -1, "": 0}[match[2]] + 12 * (int(match[3]) + 1)
    return -1


def hydrogen(folder: Path) -> list[Found]:
    """The files that a Hydrogen kit plays, each once, by the names of files and instruments, or by MIDI key.

    Args:
        folder: that of drumkit.xml and the samples.

    Raises:
        ValueError: if drumkit.xml is damaged, or names no samples.
    """
    try:
        tree = ElementTree.parse(folder / DRUMKIT)
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{folder / DRUMKIT}: cannot be read ({error})") from None
    found: dict[str, Found] = {}
    for node in tree.iter():
        if _tag(node) != "instrument":
            continue
        facts = {_tag(child): (child.text or "").strip() for child in node}
        for child in node.iter():
            file = (child.text or "").strip()
            if _tag(child) != "filename" or not file:
                continue
            if os.path.normpath(file).startswith(("..", "/")):
                raise ValueError(f"{folder / DRUMKIT}: {file} lies outside of its folder")
            key = facts.get("midiOutNote", "")
            label = drum(file) or drum(facts.get("name", "")) or (drum_of_key(int(key)) if key.isdigit() else None)
            found.setdefault(file, Found(file, label or "percussion"))
    if not found:
        raise ValueError(f"{folder / DRUMKIT}: a kit that plays no samples")
    return list(found.values())


def _tag(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


def unpack(archive: Path, home: Path) -> Path:
    """The folder of a `.h2drumkit` archive, unpacked at `home` once.

    Raises:
        ValueError: if it is damaged, holds no kit, or what lies outside of its folder.
    """
    if not home.is_dir():
        partial = home.with_name(f".{home.name}.{os.getpid()}.tmp")
        partial.mkdir(parents=True)
        try:
            with tarfile.open(archive) as tar:
                if sum(member.size for member in tar.getmembers()) > MOST:
                    raise ValueError(f"{archive}: unpacks to more than {MOST / 1e9:g} GB")
                tar.extractall(partial, filter="data")  # nothing outside of the folder, no devices, no links out
            partial.rename(home)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{archive}: not a Hydrogen kit, or damaged ({error})") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    inside = sorted(home.rglob(DRUMKIT))
    if not inside:
        raise ValueError(f"{archive}: no {DRUMKIT} in it")
    return inside[0].parent

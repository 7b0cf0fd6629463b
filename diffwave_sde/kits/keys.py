"""The keys of a kit: those of the General MIDI drum map, by what a class is called and by how its sounds are.

Source: General MIDI level 1, percussion key map; level 2 for the keys 27 to 34 and 82 to 87.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffwave_sde.data.recordings import drum

HATS = {"closed hat": 42, "pedal hat": 44, "open hat": 46}
"""They share a pair of cymbals, so that each hit cuts off what sounds of them."""

CHOKE = 1
"""The group of the hats."""

_CYMBALS = {**HATS, "crash": 49, "ride": 51, "splash": 55, "china": 52, "ride bell": 53, "crash 2": 57, "ride 2": 59}
_TOMS = {
    "low floor tom": 41, "high floor tom": 43, "low tom": 45, "low-mid tom": 47, "hi-mid tom": 48, "high tom": 50,
}  # fmt: skip
# Of others the map knows many by names that a class of sounds seldom has: they only lend their keys.
_PERCUSSION = (37, 54, 56, 58, *range(60, 82), *range(27, 35), *range(82, 88))
_SPARE = (*range(88, 128), *range(26, -1, -1))
"""Keys that no drum map uses, for what has none left."""


@dataclass(frozen=True)
class Hit:
    """What an instrument's key follows from.

    label: its class.
    decay: seconds in which it falls by 30 dB.
    brightness: spectral centroid, Hz.
    """

    label: str
    decay: float
    brightness: float


@dataclass(frozen=True)
class Key:
    """Where an instrument lies: its MIDI note, what that stands for, and its choke group."""

    note: int
    part: str = ""
    choke: int | None = None


def assign(hits: Sequence[Hit]) -> list[Key]:
    """A key for each of the hits, in their order.

    A class that is called after a part (closed hat, crash) gets that part's keys. Cymbals that are not are told apart
    by how long they ring: the shortest is the closed hat, then the pedal hat, the open hat, and the others, which only
    lend their keys; toms by how bright they are, from the lowest on. Kicks and snares take their two keys in turn. What
    has no key left takes one that no drum map uses, from 88 up, then from 26 down.

    Raises:
        ValueError: if there are more hits than keys.
    """
    kinds = [_kind(hit.label) for hit in hits]
    wanted: list[list[Key]] = [[] for _ in hits]
    for i, (hit, kind) in enumerate(zip(hits, kinds, strict=True)):
        wanted[i] = [_key(kind, part) for part in _named(hit.label)]
    named = {key.part for choices in wanted for key in choices}
    for kind, order in (("cymbal", lambda i: hits[i].decay), ("tom", lambda i: hits[i].brightness)):
        rest = sorted((i for i in range(len(hits)) if kinds[i] == kind and not wanted[i]), key=order)
        for i, part in zip(rest, _parts(kind, len(rest), named), strict=False):
            wanted[i] = [_key(kind, part, told=part in HATS)]
    for i, kind in enumerate(kinds):
        if not wanted[i]:
            wanted[i] = [Key(note) for note in _OWN.get(kind, ())]
    keys: list[Key | None] = []
    taken: set[int] = set()
    for choices in wanted:
        keys.append(next((key for key in choices if key.note not in taken), None))
        taken |= {keys[-1].note} if keys[-1] else set()
    spare = iter([note for note in _SPARE if note not in taken])
    try:
        return [key or _moved(choices, next(spare)) for key, choices in zip(keys, wanted, strict=True)]
    except StopIteration:
        raise ValueError(f"{len(hits)} instruments are more than there are keys for: ask for fewer") from None


def name_of_note(note: int) -> str:
    """A MIDI note as it stands on a keyboard, C4 for the middle one, 60."""
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    return f"{names[note % 12]}{note // 12 - 1}"


_OWN = {"kick": (36, 35), "snare": (38, 40), "clap": (39,), "percussion": _PERCUSSION}


def _kind(label: str) -> str:
    return drum(label) or "percussion"


def _named(label: str) -> list[str]:
    """The parts that a class is called after."""
    text = " ".join(re.findall(r"[a-z]+", label.lower()))
    for word, parts in {
        "closed": ["closed hat"],
        "pedal": ["pedal hat"],
        "open": ["open hat"],
        "splash": ["splash"],
        "china": ["china"],
        "crash": ["crash", "crash 2"],
        "ride": ["ride", "ride 2"],
    }.items():
        if word in text and _kind(label) == "cymbal":
            return parts
    return []


def _moved(choices: Sequence[Key], note: int) -> Key:
    """What had to go to another note: a second closed hat is still one."""
    return replace(choices[0], note=note) if choices else Key(note)


def _parts(kind: str, count: int, named: set[str]) -> list[str]:
    """The parts that so many sounds of a kind stand for: of cymbals from the shortest on, of toms from the lowest.

    Where classes are named after hats, no other cymbal is taken for one.
    """
    if kind == "tom":
        names = list(_TOMS)
        spread = min(count, len(names))
        return [names[round(i * (len(names) - 1) / max(spread - 1, 1))] for i in range(spread)]
    hats = {0: [], 1: ["closed hat"], 2: ["closed hat", "open hat"], 3: ["closed hat", "open hat"]}
    first = [] if named & set(HATS) else hats.get(count, list(HATS))
    others = [part for part in _CYMBALS if part not in HATS and part not in named][: count - len(first)]
    return first + sorted(others, key=_RING.index)


def _key(kind: str, part: str, told: bool = True) -> Key:
    note = _TOMS[part] if kind == "tom" else _CYMBALS[part]
    return Key(note, part if told else "", CHOKE if part in HATS else None)


_RING = ["splash", "ride bell", "ride", "ride 2", "china", "crash", "crash 2"]
"""Cymbals by how long they ring, the shortest first."""

"""Which classes of a model a data set's classes start from, by their names as drummers write them.

A name is words (`HiHat_Closed 02` is hi, hat, closed), in the singular and without numbers. Some words are a drum: bd
is a kick. A class starts from the first of these that there is:

1. the class of the same name, to the letter;
2. the one of the same words, whatever their order, case and spelling: `Closed Hats` from `hihat-closed`;
3. those of the same drum: `deep kicks` from `kick`;
4. those of the drum that it is a kind of: `crash` from `cymbal`;
5. those that are kinds of it: `cymbal` from `ride` and `crash`.

A name with two drums in it (`kick and snare`) has none. What starts from several begins at the mean of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

DRUMS: dict[str, tuple[str, ...]] = {
    "kick": ("bd", "bassdrum", "kickdrum", "kik"),
    "snare": ("sd", "snr", "snaredrum"),
    "cymbal": ("cym", "cymb"),
    "hihat": ("hat", "hh", "highhat", "chh", "ohh", "hhc", "hho"),
    "crash": ("crashcymbal",),
    "ride": ("ridecymbal",),
    "splash": ("splashcymbal",),
    "china": ("chinacymbal",),
    "tom": ("tomtom", "floortom", "racktom"),
    "clap": ("handclap",),
    "rim": ("rimshot", "sidestick", "rimclick"),
    "percussion": ("perc",),
    "conga": (),
    "bongo": (),
    "cowbell": (),
    "shaker": ("maraca",),
    "tambourine": ("tamb",),
}
"""A drum -> other words for it, written together. They are followed by their plurals without being listed."""

KIND_OF: dict[str, str] = {
    **dict.fromkeys(("hihat", "crash", "ride", "splash", "china"), "cymbal"),
    **dict.fromkeys(("conga", "bongo", "cowbell", "shaker", "tambourine"), "percussion"),
}

_WORDS = {word: drum for drum, others in DRUMS.items() for word in (drum, *others)}

Sources = dict[str, tuple[str, ...]]
"""A data set's class -> the classes of the model that it starts from; none for a new one."""


def match(names: Sequence[str], known: Sequence[str]) -> Sources:
    """The classes that each of the names starts from.

    Args:
        names: classes of the data.
        known: classes of the model.
    """
    return {name: _sources(name, known) for name in names}


def _sources(name: str, known: Sequence[str]) -> tuple[str, ...]:
    if name in known:
        return (name,)
    words, drum = _words(name), _drum(name)
    rules: list[Callable[[str], bool]] = [lambda other: bool(words) and _words(other) == words]
    if drum:
        rules += [
            lambda other: _drum(other) == drum,
            lambda other: _drum(other) is not None and _drum(other) == KIND_OF.get(drum),
            lambda other: KIND_OF.get(_drum(other) or "") == drum,
        ]
    found = (tuple(other for other in known if rule(other)) for rule in rules)
    return next(filter(None, found), ())


def _words(name: str) -> frozenset[str]:
    """The words of a name, drums by one word each."""
    # HiHat -> Hi Hat, kick01 -> kick 01
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z\d])", " ", name)
    words = [_singular(word) for word in re.findall(r"[^\W\d_]+", spaced.lower())]
    out, i = [], 0
    while i < len(words):
        pair = "".join(words[i : i + 2])
        two = pair in _WORDS and i + 1 < len(words)
        word = pair if two else words[i]
        out.append(_WORDS.get(word, word))
        i += 1 + two
    return frozenset(out)


def _drum(name: str) -> str | None:
    """The drum that a name tells, if it tells just one; `ride cymbal` is a ride."""
    drums = _words(name) & DRUMS.keys()
    drums -= {KIND_OF[drum] for drum in drums if drum in KIND_OF}
    return next(iter(drums)) if len(drums) == 1 else None


def _singular(word: str) -> str:
    if re.search(r"(sh|ch|ss|x)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word

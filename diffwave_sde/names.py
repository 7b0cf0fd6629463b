r"""Names of files, folders and classes: any text that a file system holds, spelt so that any text file can hold it.

In memory a name is what `os.fsdecode` makes of it: a byte that is not UTF-8 is a lone surrogate, and a line break may
stand in it. Where a name is written (CSV, JSON), shown or typed, it is spelt with escapes,

    \xe9            the byte E9, which is not UTF-8 there
    \n \r \t        a line break, a carriage return, a tab
    \u0085          another character that does not print
    \+              a plus that separates no data sets
    \\              a backslash

and all else stands for itself: `escape` spells, `unescape` reads, and a name comes back as it was. In a list that is
typed, a,b,..., a comma in a name is typed \, (`split`, `typed`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence

_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "+": "+"}
_SPELT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|([nrt\\+]))")
# controls, separators of lines, marks that turn the direction of writing, and what is no character
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\\]"
)


def escape(name: str) -> str:
    """Spells a name in characters that print and that UTF-8 has, all on one line."""
    return _UNPRINTABLE.sub(_spell, name)


def printable(text: str) -> str:
    """Text with names in it, on one line: what does not print is spelt as `escape` does, and a backslash stays one."""
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] == "\\" else _spell(match), text)


def _spell(match: re.Match) -> str:
    if match[0] in _SPELT:
        return _SPELT[match[0]]
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def unescape(text: str) -> str:
    """The name that is spelt so; a backslash that begins no escape stands for itself."""

    def read(match: re.Match) -> str:
        if match[3]:
            return _LETTERS[match[3]]
        code = int(match[1] or match[2], 16)
        return chr(0xDC00 + code if match[1] and code >= 0x80 else code)

    return _ESCAPE.sub(read, text)


def asked_for(text: str, known: Iterable[str]) -> str | None:
    """Which of the known names a person means: the one typed, the one that spells it, or the one that it spells.

    None if there is none of them.
    """
    known = list(known)
    meant = (text, escape(text), unescape(text), escape(unescape(text)))
    return next((name for name in meant if name in known), None)


def split(text: str, separator: str = ",") -> list[str]:
    """The parts of a list that a person types, without the spaces around them.

    Args:
        text: the list.
        separator: one character; after a backslash it is part of a part.
    """
    parts, i = [""], 0
    while i < len(text):
        pair = text[i : i + 2]
        if pair == "\\" + separator:
            parts[-1] += separator
        elif text[i] == separator:
            parts.append("")
        else:
            parts[-1] += pair if pair == r"\\" else text[i]
        i += 2 if pair in (r"\\", "\\" + separator) else 1
    return [part.strip() for part in parts]


def typed(name: str) -> str:
    """A name that is spelt already, as it is typed in a list: `split` leaves it whole."""
    return re.sub(r"^ +| +$", lambda spaces: r"\x20" * len(spaces[0]), name.replace(",", r"\,"))


def listed(names: Iterable[str]) -> str:
    """Names that are spelt already in one line, as they are typed."""
    return ", ".join(map(typed, names))


def pick(text: str, known: Sequence[str]) -> list[dict[int, float]]:
    """The known names, and mixes of them, that a person lists, a,b:0.7+c:0.3,..., each as of `mixture`.

    Or the one whose name, commas and all, was typed.

    Raises:
        ValueError: if one of them is not known; it says which are.
    """
    try:
        return [mixture(part, known) for part in split(text)]
    except ValueError:
        if (whole := asked_for(text, known)) is not None:
            return [{known.index(whole): 1.0}]
        raise


def mixture(text: str, known: Sequence[str]) -> dict[int, float]:
    r"""The shares, by place in `known`, of the known names that a person mixes: a:0.7+b:0.3; a+b in equal parts; or a.

    A plus in a name is typed \+; a colon needs nothing, for a name that is known as it stands is meant.

    Raises:
        ValueError: if one of them is not known, or a share is no number.
    """
    if (whole := asked_for(text, known)) is not None:
        return {known.index(whole): 1.0}
    parts, shares = split(text, "+"), {}
    for part in parts:
        name, share = asked_for(part, known), 1 / len(parts)
        if name is None:
            head, colon, number = part.rpartition(":")
            name = asked_for(head.strip(), known) if colon else None
            if name is not None:
                share = _finite(number, part)
        if name is None:
            raise ValueError(f"{part}: choose of {listed(known)}")
        shares[known.index(name)] = shares.get(known.index(name), 0.0) + share
    return shares


def _finite(text: str, part: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{part}: {text.strip() or 'nothing'} is no share: give a number, such as 0.7")
    return value


def folder_name(text: str) -> str:
    """Text as the name of a folder that any system takes: letters, digits, `_`, `-` and `.`; empty if none is there."""
    return cut(re.sub(r"[^\w.-]+", "-", printable(text)).strip("-."))


def cut(name: str, most: int = 200) -> str:
    """A name of so many bytes at most: a file system takes 255, and endings need room."""
    return name.encode()[:most].decode(errors="ignore")


def spell_bytes(text: str) -> str:
    """An argument of a command line, of which bytes that are not UTF-8 are spelt: YAML takes no others.

    In a list between double quotes YAML reads a backslash itself, so two stand there.
    """

    def spell(match: re.Match) -> str:
        quoted = text[:1] in "[{" and text.count('"', 0, match.start()) % 2
        return "\\" * bool(quoted) + _spell(match)

    return re.sub(r"[\udc80-\udcff]", spell, text)


def digest(*parts: bytes) -> str:
    """32 hex digits (BLAKE2b) that stand for these bytes."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def unencodable(error: UnicodeError) -> tuple[str, int]:
    """An error handler for streams: what a terminal's encoding has not is spelt."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(printable(c).encode("ascii", "backslashreplace").decode() for c in text), error.end

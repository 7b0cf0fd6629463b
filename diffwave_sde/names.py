r"""Names of files, folders and classes: any text that a file system holds, spelt so that any text file can hold it.

In memory a name is what `os.fsdecode` makes of it: a byte that is not UTF-8 is a lone surrogate, and a line break may
stand in it. Where a name is written (CSV, JSON), shown or typed, it is spelt with escapes,

    \xe9            the byte E9, which is not UTF-8 there
    \n \r \t        a line break, a carriage return, a tab
    \u0085          another character that does not print
    \+              a plus that separates no data sets
    \\              a backslash

and all else stands for itself: `escape` spells, `unescape` reads, and a name comes back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "+": "+"}
_SPELT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|([nrt\\+]))")
# controls, separators of lines, marks that turn the direction of writing, and what is no character
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\\]"
)


def escape(name: str) -> str:
    """Spells a name in characters that print and that UTF-8 has, all on one line."""

    def spell(match: re.Match) -> str:
        code = ord(match[0])
        if match[0] in _SPELT:
            return _SPELT[match[0]]
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return _UNPRINTABLE.sub(spell, name)


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
    return next((name for name in (text, escape(text), unescape(text)) if name in known), None)

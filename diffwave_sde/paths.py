"""Paths as a person types them: `~`, `~name` and `$VARIABLES` stand for what they stand for in a shell."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diffwave_sde.names import unescape

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


def expand(path: str | os.PathLike) -> Path:
    """A path with its home folder and variables put in.

    A `$` that begins no variable that is set stands for itself where a file or folder is called so. Where nothing is
    called as it is typed and something is called as its escapes spell (`caf\\xe9`, see `names`), that is meant.

    Args:
        path: as it was typed, or as it stands in YAML.

    Raises:
        ValueError: if a variable is not set, or a user's home folder is not known.
    """
    text = os.fspath(path)

    def value(match: re.Match) -> str:
        name = match[1] or match[2]
        if name in os.environ:
            return os.environ[name]
        if os.path.lexists(text):
            return match[0]
        raise ValueError(f"{text}: the variable {name} is not set; set it, or write the path out")

    try:
        found = Path(_VARIABLE.sub(value, text)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text}: no home folder is known for it; write the path out") from error
    spelt = unescape(str(found)) if os.sep != "\\" else str(found)
    return Path(spelt) if "\0" not in spelt and os.path.lexists(spelt) and not os.path.lexists(found) else found

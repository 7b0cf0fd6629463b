"""Tables of results, for the documentation."""

import statistics
from pathlib import Path

from rich.table import Table

from diffwave_sde.atomic import atomic_write


def markdown(table: Table) -> str:
    """A table as Markdown."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    lines = ["| " + " | ".join(row) + " |" for row in zip(*columns, strict=True)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]) + "\n"


def mean(values: list[float], digits: int = 1) -> str:
    """Their mean, and their standard deviation if there are several."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def write(path: Path | None, text: str) -> None:
    """Write a text to the file of --markdown, whole or not at all; without one do nothing."""
    if path is not None:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

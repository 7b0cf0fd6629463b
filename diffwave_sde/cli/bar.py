"""The progress bar of the verbs, on standard error, so that what they print can be piped."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def bar(unit: str) -> Progress:
    """A bar that counts in `unit`, with the time gone and the time left; nothing where there is no terminal."""
    count = TextColumn("{task.completed:.0f}/{task.total} " + unit)
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=None)

"""Progress bars: one look for all that takes a while, on a terminal, and nothing elsewhere.

That of a training run is Lightning's, in `callbacks/progress.py`.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class _Note(ProgressColumn):
    """What a task adds in words, its field `note`, if it has one."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""))


def progress_bar(unit: str, console: Console | None = None, transient: bool = False, show: bool = True) -> Progress:
    """A bar that counts in `unit`, with the time gone and the time left, and the field `note` of its task.

    Args:
        unit: what is counted, in the plural.
        console: where it is drawn; standard error by default, so that what a command prints can be piped.
        transient: whether it goes when it is done.
        show: whether it is drawn at all.
    """
    console = console or Console(stderr=True)
    count = TextColumn("{task.completed:.0f}/{task.total} " + unit)
    columns = (TextColumn("{task.description}"), BarColumn(24), count, TimeElapsedColumn(), TimeRemainingColumn())
    disable = not show or console.quiet or not console.is_terminal
    return Progress(*columns, _Note(), console=console, transient=transient, disable=disable)

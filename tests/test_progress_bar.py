"""The progress bar that commands, the data room and callbacks share."""

import io

import pytest
from rich.console import Console

from diffwave_sde.progress import progress_bar


def drawn(terminal: bool, **options) -> str:
    out = io.StringIO()
    with progress_bar("sounds", Console(file=out, force_terminal=terminal, width=100), **options) as bar:
        task = bar.add_task("making", total=8)
        bar.update(task, completed=2.4, note="1 refused")
        bar.refresh()
    return out.getvalue()


def test_a_bar_counts_in_its_unit_and_adds_what_the_task_says():
    text = drawn(True)
    assert "making" in text
    assert "2/8 sounds" in text
    assert "1 refused" in text


@pytest.mark.parametrize(("terminal", "options"), [(False, {}), (True, {"show": False})])
def test_where_nobody_watches_nothing_is_written(terminal, options):
    assert drawn(terminal, **options) == ""

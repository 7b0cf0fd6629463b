"""What a stage found: tables, checks that did not hold, and what no time was left for. No torch in here."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """What a stage found, kept in a JSON file that is written anew after every part.

    name: of the stage.
    path: the file.
    status: running, done, failed (a part of it, or all) or stopped (by the time).
    seconds: what it took.
    machine: what it ran on.
    tables: {title, note, columns, rows}, cells being text.
    figures: numbers by name.
    failures: {part, error}.
    left_out: parts that no time was left for, or that this machine has not what it takes for.
    """

    name: str
    path: Path
    status: str = "running"
    seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)
    tables: list[dict] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def row(self, title: str, cells: dict[str, object], note: str = "") -> None:
        """A row of the table of this title, by its columns."""
        table = next((t for t in self.tables if t["title"] == title), None)
        if table is None:
            table = {"title": title, "note": note, "columns": list(cells), "rows": []}
            self.tables.append(table)
        if list(cells) != table["columns"]:
            raise ValueError(f"the columns of {title!r} are {table['columns']}, not {list(cells)}")
        table["rows"].append([str(cell) for cell in cells.values()])
        self.save()

    def fail(self, part: str, error: str) -> None:
        self.failures.append({"part": part, "error": error})
        self.save()

    @property
    def failed(self) -> bool:
        return bool(self.failures) or self.status in ("failed", "stopped")

    def finish(self, status: str, error: str | None, seconds: float) -> None:
        """How the process ended that the stage ran in."""
        self.seconds = round(seconds, 1)
        self.status = "failed" if status == "done" and self.failures else status
        if error:
            self.failures.append({"part": self.name, "error": error})
        self.save()

    def save(self) -> None:
        value = asdict(self)
        del value["path"]
        replace(self.path, json.dumps(value, indent=1, ensure_ascii=False))

    def text(self) -> str:
        """As Markdown."""
        lines = [f"## {self.name}: {self.status}, {self.seconds:.0f} s", ""]
        for table in self.tables:
            columns, rows = table["columns"], table["rows"]
            lines += [f"**{table['title']}**{' ' + table['note'] if table['note'] else ''}", ""]
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows] + [""]
        for failure in self.failures:
            lines += [f"- **failed**, {failure['part']}: {failure['error']}"]
        for part in self.left_out:
            lines += [f"- left out: {part}"]
        return "\n".join(lines).rstrip() + "\n"


def read(path: Path) -> Stage | None:
    """What a stage has written, if it has."""
    if not path.is_file():
        return None
    return Stage(path=path, **json.loads(path.read_text(encoding="utf-8")))


def write_summary(stages: list[Stage], out: Path, device: str, quick: bool) -> None:
    """Write gpu.json and gpu.md."""
    machine = next((s.machine for s in stages if s.machine), {})
    values = []
    for stage in stages:
        value = asdict(stage)
        del value["path"], value["machine"]
        values.append(value)
    summary = {"device": device, "quick": quick, "machine": machine, "stages": values}
    replace(out / "gpu.json", json.dumps(summary, indent=1, ensure_ascii=False))
    head = ["# " + ", ".join(machine.values())] if machine else ["# Nothing was found"]
    if device == "cpu":
        head.append("This is a run on a CPU: it shows that the stages run, and nothing about a GPU.")
    if quick:
        head.append("With `--quick`: short sounds and few steps; the figures are no measurements.")
    replace(out / "gpu.md", "\n\n".join([*head, *(stage.text() for stage in stages)]))


def replace(path: Path, text: str) -> None:
    """Write a file whole, or leave the old one."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

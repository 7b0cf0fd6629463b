"""The page over the sounds that were made during training: a column for each step."""

from __future__ import annotations

from pathlib import Path

from diffwave_sde.sounds import page

DATA = "data"
"""The folder, and the column, of the training clips."""


def write_page(home: Path, title: str) -> None:
    """Write `home/index.html` over everything that lies in `home/data` and `home/step=N`: newest step first."""
    steps = sorted(
        (int(d.name.partition("=")[2]) for d in home.glob("step=*") if d.name.partition("=")[2].isdigit()), reverse=True
    )
    folders = [(DATA, home / DATA)] * (home / DATA).is_dir() + [(f"step {n:,}", home / f"step={n}") for n in steps]
    rows = sorted({file.stem for _, folder in folders for file in folder.glob("*.wav")})
    columns = []
    for name, folder in folders:
        files = (folder / f"{row}.wav" for row in rows)
        columns.append(page.Column(name, [f if f.exists() else None for f in files], reference=name == DATA))
    note = "Each row is one sound: the same noise and class at every step, the newest first."
    if columns and columns[0].reference:
        note += " The column “data” holds training clips of that class, for comparison."
    page.write(
        home / "index.html", f"{title}: sounds during training", [r.replace("-", " ") for r in rows], columns, note
    )

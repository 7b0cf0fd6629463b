"""A page to listen with: one static HTML file beside the sounds, that needs neither network nor server.

It is a table, a row for each sound and a column for each step of training, so that the ear can go along a row. With
one column only it is a list. Every cell holds a player and, where a PNG of the same name stands beside the WAV file, a
picture. Names are any text; what does not print is spelt as in `names`.

`embed` makes one file to send to someone, with the sounds and the pictures in it: FLAC of 16 bits, which cuts what goes
beyond full scale as any player does.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.atomic import atomic_write
from diffwave_sde.names import cut, printable
from diffwave_sde.sounds.pictures import spectrogram_png

Link = Callable[[Path], str]
"""What a page calls a file."""


@dataclass(frozen=True)
class Column:
    """Sounds that belong together.

    title: such as "data" or "step 1,000".
    sounds: a WAV file for each row, or None where there is none.
    reference: whether it stays in sight while the others scroll.
    captions: a line under each sound; none by default.
    """

    title: str
    sounds: Sequence[Path | None]
    reference: bool = False
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """What follows below the sounds of a page.

    title: its heading.
    note: a line below that.
    html: markup, such as figures of `charts`; "" for none.
    rows, columns: more sounds; none by default.
    head: what a row of them is.
    listed: whether its one column is a list, as that of a page is.
    """

    title: str
    note: str = ""
    html: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[Column] = ()
    head: str = "sound"
    listed: bool = False


def write(
    path: str | os.PathLike,
    title: str,
    rows: Sequence[str],
    columns: Sequence[Column],
    note: str = "",
    sections: Sequence[Section] = (),
    embed: bool = False,
) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        path: the HTML file; the sounds are linked relative to its folder, unless they are embedded.
        title: heading.
        rows: name of each sound.
        columns: from left to right.
        note: a line under the heading.
        sections: what comes below.
        embed: whether sounds and pictures are in the file itself.

    Raises:
        ValueError: if a column has not one sound for each row, or an embedded sound cannot be read.
        OSError: if the file cannot be written.
    """
    for part_rows, part_columns in ((rows, columns), *((part.rows, part.columns) for part in sections)):
        for column in part_columns:
            if len(column.sounds) != len(part_rows):
                raise ValueError(f"column {column.title!r} has {len(column.sounds)} sounds for {len(part_rows)} rows")
    link = _embedded if embed else _linked(Path(path).parent)
    body = _list(link, rows, columns[0]) if len(columns) == 1 else _table(link, rows, columns) if columns else ""
    for number, part in enumerate(sections):
        table = ""
        if part.listed:
            table = _list(link, part.rows, part.columns[0], "h3")
        elif part.columns:
            table = _table(link, part.rows, part.columns, part.head)
        about = f"<p>{_markup(part.note)}</p>" if part.note else ""
        head = f'<h2 class="part">{_markup(part.title)}</h2>{about}'
        body += f'\n<section id="part-{number}">{head}\n{part.html}{table}</section>'
    ways = " · ".join(f'<a href="#part-{k}">{_markup(part.title)}</a>' for k, part in enumerate(sections))
    told = (f"<p>{_markup(note)}</p>" if note else "") + (f"<p>Below: {ways}</p>" if ways else "")
    text = _PAGE.format(title=_markup(title), note=told, body=body)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_sounds(
    folder: Path, names: Sequence[str], sounds: Tensor, rate: int = audio.RATE, subtype: str = "FLOAT"
) -> list[Path]:
    """Write waveforms (n, T) as `folder/NAME.wav`, each with its picture; the WAV files, their names as of `slug`.

    `subtype` is that of `audio.write`: 32-bit floats cut nothing, PCM_24 and PCM_16 clip at full scale.
    """
    files = [folder / f"{slug(name)}.wav" for name in names]
    for file, name, sound in zip(files, names, sounds, strict=True):
        audio.write(file, sound, rate, subtype)
        spectrogram_png(file.with_suffix(".png"), sound[None], [name], rate)
    return files


def slug(name: str) -> str:
    """A file's name for the name of a sound: what could mean a folder, or trouble in a shell, becomes a dash.

    It is cut where a file's name would be too long.
    """
    text = "".join(c if c.isalnum() or c in "._" else "-" for c in printable(name))
    return cut(text)


def _table(link: Link, rows: Sequence[str], columns: Sequence[Column], head: str = "sound") -> str:
    heads = "".join(f'<th scope="col"{_kept(c)}>{_markup(c.title)}</th>' for c in columns)
    lines = [f'<thead><tr><th scope="col">{_markup(head)}</th>{heads}</tr></thead>\n<tbody>']
    for i, row in enumerate(rows):
        heard = [_player(link, c.sounds[i], f"{row}, {c.title}") if c.sounds[i] else "–" for c in columns]
        cells = "".join(f"<td{_kept(c)}>{one}{_caption(c, i)}</td>" for c, one in zip(columns, heard, strict=True))
        lines.append(f'<tr><th scope="row">{_breakable(row)}</th>{cells}</tr>')
    table = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Sounds"><table>\n{table}\n</tbody></table></div>'
    )


def _list(link: Link, rows: Sequence[str], column: Column, heading: str = "h2") -> str:
    items = (
        f"<li><{heading}>{_breakable(row)}</{heading}>{_caption(column, i)}{_player(link, sound, row)}</li>"
        for i, (row, sound) in enumerate(zip(rows, column.sounds, strict=True))
        if sound
    )
    return '<ul class="sounds">\n' + "\n".join(items) + "\n</ul>"


def _markup(text: str) -> str:
    """Any text as HTML."""
    return escape_html(printable(text))


def _breakable(name: str) -> str:
    return re.sub("_+", r"\g<0><wbr>", _markup(name))


def _kept(column: Column) -> str:
    return ' class="kept"' if column.reference else ""


def _caption(column: Column, i: int) -> str:
    return f"<p>{_breakable(column.captions[i])}</p>" if column.captions and column.captions[i] else ""


def _player(link: Link, sound: Path, name: str) -> str:
    picture, name = sound.with_suffix(".png"), _markup(name)
    image = f'<img src="{link(picture)}" alt="Spectrogram of {name}" loading="lazy">' if picture.exists() else ""
    return f'<audio controls preload="none" src="{link(sound)}" aria-label="{name}"></audio>{image}'


def _linked(home: Path) -> Link:
    """Links relative to the page's folder."""

    def link(file: Path) -> str:
        # of the bytes, which need not be UTF-8
        return escape_html(quote(os.fsencode(Path(os.path.relpath(file, home)).as_posix())))

    return link


def _embedded(file: Path) -> str:
    """A link that is the file itself."""
    if file.suffix == ".png":
        kind, data = "image/png", file.read_bytes()
    else:
        kind, data = "audio/flac", audio.flac(*audio.decode(file))
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --paper: #fbfaf8; --ink: #1d1b19; --soft: #6c6760; --line: #e3dfd8; --accent: #b3471d; --card: #fff }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #161514; --ink: #ece8e1; --soft: #a09a91; --line: #35322e; --accent: #f08c5a; --card: #1f1d1b }}
}}
* {{ box-sizing: border-box }}
body {{ margin: 0; padding: 2rem clamp(1rem, 4vw, 3rem); background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }}
h1 {{ margin: 0; font-size: 1.6rem; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere }}
header p {{ margin: .3rem 0 0; color: var(--soft); max-width: 70ch }}
header {{ margin-bottom: 1.5rem }}
kbd {{ font: .85em ui-monospace, monospace; border: 1px solid var(--line); border-radius: 4px; padding: 0 .35em;
  background: var(--card) }}
.scroll {{ overflow: auto; max-height: calc(100vh - 9rem); border: 1px solid var(--line); border-radius: 10px;
  background: var(--card) }}
table {{ border-collapse: separate; border-spacing: 0 }}
th, td {{ padding: .6rem .7rem; border-bottom: 1px solid var(--line); background: var(--card); text-align: left;
  vertical-align: top }}
tbody tr:last-child > * {{ border-bottom: 0 }}
thead th {{ position: sticky; top: 0; z-index: 2; font-weight: 600; font-variant-numeric: tabular-nums }}
th[scope=row], thead th:first-child {{ position: sticky; left: 0; z-index: 1; width: 8rem; min-width: 8rem;
  max-width: 8rem; font-weight: 600; overflow-wrap: break-word }}
thead th:first-child, thead th.kept {{ z-index: 3 }}
.kept {{ position: sticky; left: 8rem; z-index: 1; border-right: 2px solid var(--line) }}
td.kept, thead th.kept {{ color: var(--accent) }}
audio {{ display: block; width: 250px; height: 36px }}
td p, li p {{ margin: .4rem 0 0; max-width: 250px; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere }}
img {{ display: block; width: 250px; height: auto; margin-top: .5rem; border-radius: 6px }}
.playing {{ outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 18px }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 6px }}
.sounds {{ list-style: none; margin: 0; padding: 0; display: grid; gap: 0 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }}
.sounds li {{ padding: 1rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card);
  display: grid; grid-template-rows: subgrid; grid-row: span 4; row-gap: 0; align-content: start;
  margin-bottom: 1rem }}
.sounds h2, .sounds h3 {{ margin: 0 0 .4rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere }}
.sounds p {{ grid-row: 2; margin: 0 0 .6rem; max-width: none }}
.sounds audio {{ grid-row: 3; width: 100% }} .sounds img {{ grid-row: 4; width: 100% }}
section {{ margin-top: 2.5rem }}
section > p {{ margin: .2rem 0 1rem; color: var(--soft); max-width: 70ch }}
.part {{ margin: 0 0 .4rem; font-size: 1.2rem; font-weight: 650 }}
a {{ color: var(--accent) }}
.charts {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }}
.chart {{ margin: 0; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 10px; background: var(--card) }}
.chart figcaption {{ font-weight: 600; font-size: .95rem }}
.chart svg {{ display: block; width: 100%; height: auto; margin-top: .3rem }}
.chart text {{ fill: var(--soft); font: 11px system-ui, sans-serif }}
.chart .grid {{ stroke: var(--line); stroke-width: 1 }}
.chart polyline {{ fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round }}
.chart .dot {{ fill: currentColor }}
.chart line.mark {{ stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3 }}
.chart ul {{ list-style: none; margin: .3rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem;
  font-size: .8rem; color: var(--soft); font-variant-numeric: tabular-nums }}
.chart b {{ color: var(--ink); font-weight: 600 }}
.chart i {{ display: inline-block; width: .9rem; height: 3px; margin-right: .35rem; vertical-align: middle;
  border-radius: 2px; background: currentColor }}
.chart i.mark {{ background: var(--soft) }}
.c0 {{ color: var(--accent) }} .c1 {{ color: #2f86c9 }} .c2 {{ color: #3a9d5d }} .c3 {{ color: #a366cf }}
.c4 {{ color: #b98a1c }} .c5 {{ color: #22a0a0 }} .c6 {{ color: #c2548a }}
.wide {{ overflow-x: auto; margin-bottom: 1rem }}
.facts {{ border-spacing: 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  font-variant-numeric: tabular-nums }}
.facts th[scope=row] {{ position: static; width: auto; min-width: 0; max-width: none }}
@media (max-width: 640px) {{
  td.kept {{ position: static }} thead th.kept {{ left: auto; z-index: 2 }}
  th[scope=row], thead th:first-child {{ width: 6.5rem; min-width: 6.5rem; max-width: 6.5rem }}
}}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
{note}
<p>Arrow keys go from sound to sound and play it, <kbd>Space</kbd> plays the last one again.</p>
</header>
<main>
{body}
</main>
<script>
// One sound at a time; arrow keys walk over the table, or over the list, and play what they reach.
const players = [...document.querySelectorAll("audio")];
let last = null;
const stop = (but) => players.forEach((p) => {{ if (p !== but) {{ p.pause(); p.classList.remove("playing"); }} }});
players.forEach((p) => {{
  p.addEventListener("play", () => {{ stop(p); last = p; p.classList.add("playing"); }});
  p.addEventListener("ended", () => p.classList.remove("playing"));
}});
const hear = (p) => {{
  p.scrollIntoView({{ block: "nearest", inline: "center" }});
  p.focus({{ preventScroll: true }});
  p.currentTime = 0;
  p.play();
}};
const beside = (p, key) => {{
  const cell = p.closest("td"), step = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
  if (!cell) return players[players.indexOf(p) + step];
  let row = cell.parentElement, column = cell.cellIndex;
  for (;;) {{
    if (key === "ArrowLeft" || key === "ArrowRight") column += step;
    else row = step > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (!row || !row.cells[column]) return null;
    const found = row.cells[column].querySelector("audio");
    if (found) return found;
    if (column === 0) return null;
  }}
}};
document.addEventListener("keydown", (event) => {{
  if (event.ctrlKey || event.metaKey || event.altKey || !players.length) return;
  const here = event.target.closest("audio") || last;
  if (event.key.startsWith("Arrow")) {{
    const next = here ? beside(here, event.key) : players[0];
    event.preventDefault();
    if (next) hear(next);
  }} else if (event.key === " " && !event.target.closest("a, button")) {{
    event.preventDefault();
    hear(here || players[0]);
  }}
}}, true);
</script>
</body>
</html>
"""

"""The documentation keeps its word: links lead somewhere, named configurations exist, lines fit a screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WIDTH = 120

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> list[tuple[int, str]]:
    """Number and text of each line outside code blocks."""
    lines, code = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            lines.append((number, line))
    return lines


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = (line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_relative_link_resolves(page):
    for number, line in prose(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"\w+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name}:{number}: {target} does not exist"
            assert not anchor or anchor in anchors(file), f"{page.name}:{number}: {target} has no such heading"


@pages
def test_every_configuration_named_exists(page):
    for name in re.findall(r"\bconfigs/[\w./-]+", page.read_text(encoding="utf-8")):
        if "NAME" not in name:
            assert (ROOT / name.rstrip(".")).exists(), f"{page.name}: {name} does not exist"


@pages
def test_prose_fits_a_screen(page):
    for number, line in prose(page):
        if not line.lstrip().startswith("|"):
            assert len(line) <= WIDTH, f"{page.name}:{number}: {len(line)} characters; at most {WIDTH} outside tables"

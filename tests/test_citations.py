"""The tables of processes, losses and samplers in docs/ and the docstrings cite the same equations."""

import inspect
import re
from pathlib import Path

import pytest

from diffwave_sde import denoiser, loss, samplers, sde

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("processes.md", "samplers.md")]
KINDS = {"eq": "eq", "alg": "algorithm", "algorithm": "algorithm", "algorithms": "algorithm", "table": "table"}
NUMBERS = r"\d+(?:(?:, | and | to |, eq\. )\d+)*"
CITED = re.compile(rf"\b({'|'.join(KINDS)})\.? ({NUMBERS})")


def cited(text: str) -> set[tuple[str, int]]:
    """The equations, algorithms and tables that a text cites, by number."""
    found = set()
    for kind, numbers in CITED.findall(" ".join(text.split())):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", numbers):
            found |= {(KINDS[kind], n) for n in range(int(first), int(last or first) + 1)}
    return found


def rows() -> dict[str, set[tuple[str, int]]]:
    """What the last column of the tables cites for each class that a row begins with."""
    found = {}
    for line in [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]:
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        name = re.fullmatch(r"`(\w+)`", cells[0])
        if name and cited(cells[-1]):
            found[name[1]] = cited(cells[-1])
    return found


def test_the_pages_are_read():
    assert rows()["PredictorCorrector"] == {("algorithm", n) for n in (2, 3, 4, 5)}
    assert {"VP", "Heun", "LikelihoodWeight"} <= rows().keys()


@pytest.mark.parametrize("name", rows())
def test_the_code_cites_the_equations_of_the_pages(name):
    cls = next(getattr(room, name) for room in (sde, samplers, loss, denoiser) if hasattr(room, name))
    own = [c for c in cls.__mro__ if c.__module__.startswith("diffwave_sde")]
    text = " ".join([inspect.getmodule(cls).__doc__ or "", *(inspect.getsource(c) for c in own)])
    assert rows()[name] <= cited(text)

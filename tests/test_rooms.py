"""Each room of the package imports what the design allows it, and nothing else of the package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffwave_sde

ROOT = Path(diffwave_sde.__file__).parent
EVERYTHING = None

MAP = Path(__file__).parents[1] / "docs" / "architecture.md"


def allowed() -> dict[str, set[str] | None]:
    """What each room may import of the others, as the map says; a room is a file, or a folder with all in it."""
    rooms: dict[str, set[str] | None] = {"__init__": set()}
    table = MAP.read_text(encoding="utf-8").partition("| room | holds | may import |\n")[2].partition("\n\n")[0]
    for line in table.splitlines()[1:]:
        room, _, others = (cell.strip() for cell in line.strip("|").split("|"))
        names = {name.strip() for name in others.split(",") if name.strip()}
        rooms[room.strip("`")] = EVERYTHING if names == {"everything"} else names
    return rooms


ALLOWED = allowed()

# What each room may import from elsewhere, beside the standard library, where the design limits it.
OUTSIDE = {
    "random": {"torch"},
    "atomic": set(),
    "bounds": set(),
    "names": set(),
    "paths": set(),
    "progress": {"rich"},
    "audio": {"torch", "torchaudio", "soundfile", "numpy"},
    "sounds": {"torch", "numpy", "matplotlib"},
    "sde": {"torch", "numpy"},
    "networks": {"torch", "einops"},
    "autoencoder": {"torch", "auraloss"},
    "parametrization": {"torch"},
    "denoiser": {"torch"},
    "clipping": {"torch"},
    "model": {"torch"},  # without Lightning: who listens does not wait for it
    "divergence": {"torch"},
    "likelihood": {"torch", "torchdiffeq", "numpy", "soundfile"},
    "loss": {"torch"},
    "samplers": {"torch", "torchdiffeq", "yaml"},
    "guidance": {"torch"},
    "deploy": {"torch", "onnxscript", "onnxruntime", "numpy", "safetensors", "yaml"},
    "machine": {"torch"},
    "optim": {"torch"},
}

FILES = sorted(p for p in ROOT.rglob("*.py") if "configs" not in p.relative_to(ROOT).parts)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative: from the folder of the file, one up for each further dot
                package = ("diffwave_sde", *path.relative_to(ROOT).parts[:-1])
                base = ".".join(package[: len(package) - node.level + 1])
                module = f"{base}.{module}".rstrip(".")
            # `from diffwave_sde import sde` names a room too
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "diffwave_sde" else {module}
    return found


def rooms_imported(path: Path) -> set[str]:
    inside = {name for name in imports(path) if name.split(".")[0] == "diffwave_sde"}
    return {name.split(".")[1] for name in inside if "." in name} - {room_of(path), "__version__"}


def test_the_map_has_the_rooms_that_there_are():
    assert set(ALLOWED) == {room_of(p) for p in FILES}
    assert len(ALLOWED) > 20


def test_there_are_files_to_read():
    assert {"sde", "denoiser", "loss", "networks", "samplers"} <= {room_of(p) for p in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_what_they_may(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: say in docs/architecture.md what it may import"
    if ALLOWED[room] is not EVERYTHING:
        wrong = rooms_imported(path) - ALLOWED[room]
        assert not wrong, f"{room} may not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) in OUTSIDE], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_mathematics_needs_torch_alone(path):
    tops = {name.split(".")[0] for name in imports(path)} - {"diffwave_sde"} - set(sys.stdlib_module_names)
    assert tops <= OUTSIDE[room_of(path)]


def test_who_listens_does_not_wait_for_what_trains():
    slow = ("torch._dynamo", "lightning", "torchmetrics", "scipy", "matplotlib", "transformers", "wandb")
    code = f"import sys, diffwave_sde.cli.sample; print([m for m in {slow!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_no_room_goes_in_a_circle():
    order: list[str] = []

    def visit(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, f"{' imports '.join((*above, room))}"
        if room not in order:
            for below in sorted(ALLOWED[room] or ()):
                visit(below, (*above, room))
            order.append(room)

    for room in ALLOWED:
        visit(room, ())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import diffwave_sde.sde", {"sde"}),
        ("from diffwave_sde.sde import VP", {"sde"}),
        ("from diffwave_sde import sde", {"sde"}),
        ("from ..sde import VP", {"sde"}),
        ("from .blocks import x", set()),
        ("def f():\n    from diffwave_sde.loss import Loss", {"loss"}),
        ("import torch", set()),
    ],
)
def test_every_way_of_importing_is_seen(line, found, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "networks").mkdir()
    path = tmp_path / "networks" / "x.py"
    path.write_text(line)
    assert rooms_imported(path) == found

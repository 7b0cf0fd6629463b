"""The worked example of docs/extending.md: short, lawful, and a value on the command line."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import loss.test_objectives as objectives
import pytest
import sde.test_laws as laws
import torch
import truth

from diffwave_sde import audio

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
(SOURCE,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The example as a module in an empty folder."""
    (tmp_path / "mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    yield mine
    sys.modules.pop("mine", None)


def lines_of(name: str) -> int:
    """Lines of code of a class, without its docstring and empty lines."""
    (cls,) = (node for node in ast.parse(SOURCE).body if getattr(node, "name", None) == name)
    return len([line for line in ast.unparse(ast.Module(cls.body[1:], [])).splitlines() if line.strip()]) + 1


def test_a_process_and_a_weight_take_as_few_lines_as_the_page_says():
    assert lines_of("Circle") == lines_of("Knee") == 6 < 15
    assert "Six lines of code each" in PAGE.read_text(encoding="utf-8")


def test_the_process_obeys_every_law(mine):
    sde, count = mine.Circle(), 0
    for name, law in inspect.getmembers(laws, inspect.isfunction):
        if name.startswith("test_") and list(inspect.signature(law).parameters) == ["sde"]:
            law(sde)
            count += 1
    assert count > 12


@pytest.mark.parametrize("data", [truth.GAUSSIAN, truth.MIXTURE], ids=["gaussian", "mixture"])
def test_the_weight_is_least_at_the_exact_denoiser(mine, data):
    for sde in (mine.Circle(), truth.PROCESSES["CLD"]):
        objectives.test_every_loss_is_least_at_the_exact_denoiser(sde, mine.Knee(), data)


def test_the_formulas_are_those_of_the_page(mine):
    t = torch.tensor([0.2, 0.7]).double()
    kernel = mine.Circle().kernel(t)
    torch.testing.assert_close(kernel.M[:, 0] ** 2 + kernel.L[:, 0, 0] ** 2, torch.ones(2).double())
    snr = kernel.snr
    torch.testing.assert_close(mine.Knee(10.0)(truth.weight_inputs(mine.Circle(), t)), snr / (1 + snr / 10))


def test_the_commands_of_the_page_run(mine, tmp_path):
    commands = re.findall(r"^diffwave-sde (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["fit", "sample", "fit"]
    small = (
        " --data.count=80 --data.length=2000 --data.batch_size=4 --model.net.channels=[8,8,8] --model.net.heads=2 "
        "--model.sampler.steps=2 --trainer.max_steps=2 --trainer.accelerator=cpu --trainer.logger=false --name=drums"
    )
    for command in commands:
        run = [sys.executable, "-m", "diffwave_sde", *shlex.split(command + small * command.startswith("fit"))]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert not done.returncode, done.stderr[-2000:]
    assert len(list((tmp_path / "runs" / "drums" / "sounds").rglob("*.wav"))) == 2
    config = (tmp_path / "runs" / "drums" / "config.yaml").read_text()
    assert "mine.Circle" in config
    assert "mine.Knee" in config
    assert "mine.fade" in (tmp_path / "runs" / "drums-2" / "config.yaml").read_text()


def test_the_example_of_listening_from_python_makes_its_sounds(tmp_path, monkeypatch):
    page = PAGE.with_name("models.md").read_text(encoding="utf-8")
    source = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "models.md", "exec"), {})
    for name in ("kick", "snare"):
        sound, rate = audio.read(tmp_path / f"{name}.wav")
        assert (len(sound), rate) == (21_000, 44_100)
        assert 0.3 < sound.abs().max() <= 1.0
        assert sound[:4410].square().mean() > 100 * sound[-4410:].square().mean()  # it decays

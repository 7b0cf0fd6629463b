"""Exported models: what is in the folder, what it sounds like, and where a model is taken from."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from refusal import refusal
from safetensors.torch import load_file, save_file
from test_cli import SMALL

from diffwave_sde import checkpoint
from diffwave_sde.cli import main, runs
from diffwave_sde.denoiser import Condition
from diffwave_sde.deploy import card
from diffwave_sde.deploy.recipe import portable
from diffwave_sde.metrics.report import METRICS
from diffwave_sde.model import KEY
from diffwave_sde.random import randn
from diffwave_sde.samplers import DPMSolverSDE

FILES = ["README.md", "config.yaml", "model.safetensors"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs/tiny, its weights shaken so that the network matters, and its exports tiny16 and tiny32."""
    home = tmp_path_factory.mktemp("home")
    before = os.getcwd()
    os.chdir(home)
    try:
        main(["fit", f"--data.root={home}/stores", *SMALL, "--trainer.max_steps=2", "--name=tiny"])
        file = Path("runs/tiny/checkpoints/last.ckpt")
        state = torch.load(file, weights_only=True)
        generator = torch.Generator().manual_seed(1)
        for name, x in state["state_dict"].items():
            if ".net." in name and x.is_floating_point():
                x += 0.1 * torch.randn(x.shape, generator=generator)
        torch.save(state, file)
        for size in (16, 32):
            main(["export", "--ckpt=runs/tiny", f"--dtype=float{size}", f"--out=tiny{size}"])
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in, of a program that no models come with."""
    monkeypatch.setattr(checkpoint.files, "MODELS", tmp_path / "package" / "models")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def ships(home, here):
    """A function that lets the program come with a model of some name; its folder."""

    def ship(name):
        return shutil.copytree(home / "tiny16", checkpoint.files.MODELS / name)

    return ship


def sounds(path):
    model = checkpoint.load(path)
    labels = torch.arange(3)
    with torch.inference_mode():
        return model.module.sample(model.length, labels, model.module.generators(range(3), 4), DPMSolverSDE(8))


def test_float32_sounds_are_those_of_the_checkpoint(home):
    ours, theirs = sounds(home / "tiny32"), sounds(home / "runs" / "tiny")
    assert torch.equal(ours, theirs)
    assert theirs.std() > 0.01


def test_float16_sounds_differ_by_less_than_a_listener_hears(home):
    ours, theirs = sounds(home / "tiny16"), sounds(home / "runs" / "tiny")
    error = 20 * ((ours - theirs).norm() / theirs.norm()).log10()
    # dB; it is -65.
    assert -80 < error < -60


@pytest.fixture(scope="module")
def onnx(home):
    """The folder of the run's graph."""
    main(["export", f"--ckpt={home}/runs/tiny", "--format=onnx", f"--out={home}/onnx"])
    return home / "onnx"


def test_a_graph_makes_sounds_without_this_package_or_torch(onnx, here):
    assert sorted(p.name for p in onnx.iterdir()) == [
        *FILES[:2], "model.onnx", "sample.py", "sampling.json", "weak.onnx",
    ]  # fmt: skip
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['diffwave_sde'] = None; "
        "sys.argv = ['sample.py', '--n=4', '--label=kick', '--steps=10']; "
        f"runpy.run_path('{onnx}/sample.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    files = sorted((here / "sounds").iterdir())
    assert [f.name for f in files] == [f"{i:03d}-kick.wav" for i in range(4)]
    length = checkpoint.load(onnx.parent / "tiny16").length
    for file in files:
        x, rate = soundfile.read(file)
        assert (len(x), rate) == (length, 44_100)
        assert x.std() > 0.01


def test_a_graphs_script_makes_the_models_sounds(onnx, home):
    from diffwave_sde.deploy.sample import load, sample

    model = checkpoint.load(home / "runs" / "tiny")
    graph, table, weak = load(onnx)
    assert (table["labels"], table["rate"], table["mu"]) == (list(model.labels), model.rate, model.mu)
    with torch.inference_mode():
        expected = model.module.sample(model.length, torch.arange(3), model.module.generators(range(3), 4))[:, 0]
    noise = model.module.generators(range(3), 4)
    plan = table["plans"][str(table["default"])]
    found = sample(graph, table, np.arange(3), lambda shape: randn(shape, noise).numpy(), plan, weak)
    assert np.abs(found - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_a_program_answers_for_the_length_that_was_asked_for(home, here):
    main(["export", f"--ckpt={home}/runs/tiny", "--format=program", "--length=700", "--out=program"])
    program = torch.export.load(here / "program" / "model.pt2").module()
    model = checkpoint.load(home / "runs" / "tiny").module
    u, t, label = torch.randn(3, 1, 1, 700), torch.rand(3, dtype=torch.float64), torch.tensor([0, 2, -1])
    with torch.no_grad():
        expected = model.denoiser(u, t, Condition(label=label))
        assert torch.allclose(program(u, t, label), expected, rtol=1e-4, atol=1e-6)
    assert json.loads((here / "program" / "sampling.json").read_text())["length"] == 700


@pytest.mark.parametrize(("options", "message"), [
    (["--format=onnx", "--dtype=float16"], "--dtype float16: model.onnx is in float32; leave --dtype out"),
    (["--length=700"], "--length 700: for graphs alone"),
    (["--format=program", "--length=0"], "--length 0: for graphs alone (--format onnx, program), and at least 1"),
])  # fmt: skip
def test_what_a_format_has_not_is_refused_in_one_line(home, here, options, message, capfd):
    assert message in refusal(["export", f"--ckpt={home}/runs/tiny", "--out=x", *options], capfd)
    assert not (here / "x").exists()


def test_the_folder_holds_what_it_takes_to_listen_and_no_more(home):
    state = torch.load(home / "runs/tiny/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for size, dtype in ((16, torch.float16), (32, torch.float32)):
        folder = home / f"tiny{size}"
        assert sorted(p.name for p in folder.iterdir()) == FILES
        weights = load_file(folder / "model.safetensors")
        assert {f"denoiser.{name}" for name in weights} == {name for name in state if name.startswith("denoiser.")}
        assert {x.dtype for x in weights.values() if x.dim() > 1} == {dtype}
        assert {x.dtype for x in weights.values() if x.dim() < 2} == {torch.float32}
        model = checkpoint.load(folder)
        assert {x.dtype for x in model.module.denoiser.state_dict().values()} == {torch.float32}
        assert not any(p.requires_grad for p in model.module.parameters())


def test_the_configuration_comes_back(home):
    run, folder = (checkpoint.read(checkpoint.find(home / name)) for name in ("runs/tiny", "tiny16"))
    ours, theirs = folder[KEY], run[KEY]
    assert folder["global_step"] == run["global_step"] == 2
    assert ours.pop("sigma_data") == run["state_dict"]["denoiser.sigma_data"].item()
    assert theirs["config"]["data"].pop("root") == f"{home}/stores"
    assert theirs["config"]["data"].pop("disks") is None
    assert ours == theirs
    a, b = checkpoint.load(home / "runs/tiny"), checkpoint.load(home / "tiny16")
    fields = ("labels", "rate", "length", "mu", "step")
    assert [getattr(a, f) for f in fields] == [getattr(b, f) for f in fields]


def test_an_export_of_an_export_is_the_same(home, here):
    main(["export", f"--ckpt={home}/tiny16", "--out=again"])
    for name in ("model.safetensors", "config.yaml"):
        assert (here / "again" / name).read_bytes() == (home / "tiny16" / name).read_bytes()


def changed(home, here, change):
    """A copy of the run whose recipe is changed."""
    state = torch.load(home / "runs/tiny/checkpoints/last.ckpt", weights_only=True)
    change(state)
    torch.save(state, here / "changed.ckpt")
    return "--ckpt=changed.ckpt"


def test_no_path_of_this_machine_goes_along(home, here):
    def own_sounds(state):
        state[KEY]["config"]["data"]["dataset"] = f"drums + {home}/secret place/My Sounds"

    main(["export", changed(home, here, own_sounds), "--out=own"])
    for folder in (home / "tiny16", here / "own"):
        for file in folder.iterdir():
            content = file.read_bytes()
            for word in (str(home), str(here), str(Path.home()), "secret", os.uname().nodename, "stores"):
                assert word.encode() not in content, (file, word)
    told = yaml.safe_load((here / "own" / "config.yaml").read_text())["config"]["data"]
    assert told["dataset"] == "drums + My-Sounds"


def test_a_learned_grid_goes_along_as_its_times(home, here):
    Path("grids.yaml").write_text("2: [0.9, 0.1]\n3: [0.9, 0.5, 0.1]\n")

    def learned(state):
        grid = {"class_path": "diffwave_sde.samplers.LearnedGrid", "init_args": {"file": f"{here}/grids.yaml"}}
        state[KEY]["config"]["model"]["sampler"]["init_args"]["grid"] = grid

    main(["export", changed(home, here, learned), "--out=out"])
    Path("grids.yaml").unlink()
    assert checkpoint.load("out").module.sampler.grid.times == [0.9, 0.1]


def test_the_card_tells_the_facts(home, here):
    figure = {"value": 12.34, "spread": 1.5, "floor": 4.321, "floor_spread": 0.1}
    found = {
        "real": f"training clips of {home}", "generated": str(home), "resamples": 2, "seed": 0,
        "embeddings": {"log-mel": {"all": {"count": 6, "frechet": figure, "accuracy": figure}, "kick": {"count": 2}}},
        "measurements": {"peak": {"unit": "dBFS", "difference": 0.25, "floor": None}},
        "neighbours": {"close": 0.01, "duplicates": 0.02, "repeated": 0.03, "typical": 1.0},
    }  # fmt: skip
    Path("evaluation.json").write_text(json.dumps(found))
    main(
        [
            "export", f"--ckpt={home}/runs/tiny", "--out=out", "--licence=CC0 | none", "--evaluation=evaluation.json",
            "--command=make train DATASET=tiny",
        ]
    )  # fmt: skip
    card = Path("out/README.md").read_text()
    count = sum(p.numel() for p in checkpoint.load("out").module.denoiser.parameters())
    size = os.path.getsize("out/model.safetensors") / 1e6
    for line in (
        "# out", "cymbal, kick, snare", "| data set | drums;", "44,100 Hz, 2,000 samples", "| trained | 2 steps |",
        f"| weights | {count:,}", f"| size | {size:.1f} MB in float16 |", "| licence | CC0 \\| none |",
        "| trained by | `make train DATASET=tiny` |",
        "| log-mel | all (6) | kick (2) |", f"| {METRICS['frechet']} | 12.3 ± 1.500 (4.321) |  |",
        "| peak, dBFS | 0.250 | none |", "1.0%; closer to another generated one: 2.0% (real ones: 3.0%)",
    ):  # fmt: skip
        assert line in card, line
    assert str(home) not in card
    assert "| licence | not stated |" in (home / "tiny16" / "README.md").read_text()


def broken(home, here, change):
    """A copy of the exported folder in which something is changed."""
    folder = shutil.copytree(home / "tiny16", here / "broken")
    change(folder)
    return folder


def rename_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["net.other"] = weights.pop("net.stem.bias")
    save_file(weights, folder / "model.safetensors")


def edit(name, change):
    def apply(folder):
        text = (folder / name).read_text()
        assert change(text) != text
        (folder / name).write_text(change(text))

    return apply


BROKEN = {
    "no configuration": (lambda f: (f / "config.yaml").unlink(), ["model.safetensors", "config.yaml", "whole folder"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["broken", "no checkpoint"]),
    "a part of the weights": (lambda f: os.truncate(f / "model.safetensors", 9000), ["model.safetensors is damaged"]),
    "a pointer to the weights": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
        ["model.safetensors is damaged", "again"],
    ),
    "a weight of another name": (rename_a_weight, ["model.safetensors", "net.other differs", "one export"]),
    "another network": (
        edit("config.yaml", lambda text: text.replace("embedding: 8", "embedding: 16")),
        ["model.safetensors", "is not of the model", "config.yaml"],
    ),
    "no labels": (edit("config.yaml", lambda text: text.replace("labels:", "names:")), ["config.yaml", "labels"]),
    "no YAML": (edit("config.yaml", lambda text: text + "\n:\t{"), ["config.yaml", "cannot be read"]),
    "an empty configuration": (edit("config.yaml", lambda text: ""), ["config.yaml", "cannot be read"]),
    "an unknown class": (
        edit("config.yaml", lambda text: text.replace("networks.UNet", "networks.WNet")),
        ["config.yaml", "describes no model", "0.1.0"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(case, home, here, capfd):
    change, words = BROKEN[case]
    folder = broken(home, here, change)
    said = refusal(["sample", f"--ckpt={folder}", "--n=1", "--out=out"], capfd)
    assert all(word in said for word in words), said
    assert not (here / "out").exists()


def test_whoever_listens_needs_no_optimizer(home, here):
    folder = broken(home, here, edit("config.yaml", lambda text: re.sub(r"[\w.]*AdamW", "mine.Descent", text)))
    assert torch.equal(sounds(folder), sounds(home / "tiny16"))


def overflow(state):
    state["state_dict"]["denoiser.net.stem.weight"][0, 0, 0] = 1e5


def diverged(state):
    state["state_dict"]["denoiser.net.stem.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (overflow, ["net.stem.weight", "100000", "float16", "--dtype float32"]),
        (diverged, ["net.stem.bias", "not finite"]),
        (lambda state: state[KEY].pop("config"), ["without a configuration"]),
    ],
)
def test_weights_that_cannot_be_written_are_refused_and_leave_nothing(change, words, home, here, capfd):
    said = refusal(["export", changed(home, here, change), "--out=out"], capfd)
    assert all(word in said for word in ["changed.ckpt", *words]), said
    assert [p.name for p in here.iterdir()] == ["changed.ckpt"]


def test_weights_beyond_float16_are_written_as_float32(home, here):
    main(["export", changed(home, here, overflow), "--out=out", "--dtype=float32"])
    assert checkpoint.load("out").module.denoiser.net.stem.weight.max() == 1e5


def test_a_file_of_this_machine_in_the_configuration_is_refused(home):
    recipe = checkpoint.read(home / "runs/tiny/checkpoints/last.ckpt")[KEY]
    recipe["config"]["model"]["net"]["init_args"]["weights"] = "/home/me/first.pt"
    with pytest.raises(ValueError, match=r"model\.net\.init_args\.weights is /home/me/first\.pt"):
        portable(recipe, checkpoint.load(home / "tiny16"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out=there"], ["there exists", "--overwrite"]),
        (["--out=there", "--overwrite"], ["there holds mine.txt", "--out"]),
        (["--out=there/mine.txt", "--overwrite"], ["mine.txt is a file"]),
        (["--out=/proc/none"], ["/proc", "--out"]),
        (["--out=out", "--evaluation=none.json"], ["none.json", "no such file"]),
        (["--out=out", "--evaluation=there/mine.txt"], ["mine.txt", "diffwave-sde evaluate"]),
        (["--out=out", "--dtype=float8"], ["float8", "float16"]),
        (["--out=out", "--format=mp3"], ["mp3", "safetensors"]),
        ([], ["--out is needed", "--help"]),
    ],
)
def test_bad_options_are_refused_in_one_line_and_lose_nothing(options, words, home, here, capfd):
    (here / "there").mkdir()
    (here / "there" / "mine.txt").write_text("dear to me")
    said = refusal(["export", f"--ckpt={home}/runs/tiny", *options], capfd)
    assert all(word in said for word in words), said
    assert [str(p.relative_to(here)) for p in sorted(here.rglob("*"))] == ["there", "there/mine.txt"]


def test_an_earlier_export_is_replaced_when_asked_to(home, here):
    for size in (32, 16):
        main(["export", f"--ckpt={home}/runs/tiny", f"--dtype=float{size}", "--out=out", "--overwrite"])
    assert (here / "out/model.safetensors").read_bytes() == (home / "tiny16/model.safetensors").read_bytes()
    assert [p.name for p in here.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("no space left on device")])
def test_a_stopped_export_leaves_what_was_there(stop, there, home, here, monkeypatch):
    if there:
        shutil.copytree(home / "tiny32", here / "out")
    before = {p.name: p.read_bytes() for p in (here / "out").glob("*")}

    def fail(*_):
        assert any((here / name / "model.safetensors").exists() for name in os.listdir(here))
        raise stop

    monkeypatch.setattr(card, "card", fail)
    with pytest.raises(SystemExit):
        main(["export", f"--ckpt={home}/runs/tiny", "--out=out", "--overwrite"])
    assert {p.name: p.read_bytes() for p in (here / "out").glob("*")} == before
    assert [p.name for p in here.iterdir()] == (["out"] if there else [])


def test_an_old_model_comes_back_where_the_new_one_cannot_be_moved(home, here, monkeypatch):
    shutil.copytree(home / "tiny32", here / "out")
    move, moves = os.replace, []

    def second_fails(a, b):
        moves.append(a)
        if len(moves) == 2:
            raise OSError("no")
        move(a, b)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(SystemExit):
        main(["export", f"--ckpt={home}/runs/tiny", "--out=out", "--overwrite"])
    assert (here / "out/model.safetensors").read_bytes() == (home / "tiny32/model.safetensors").read_bytes()
    assert [p.name for p in here.iterdir()] == ["out"]


@pytest.mark.parametrize("path", ["tiny16", "tiny16/model.safetensors"])
def test_an_exported_model_is_listened_to_but_not_trained_on(path, home, here, capfd):
    main(["sample", f"--ckpt={home / path}", "--n=1", "--label=kick"])
    assert (here / "sounds/tiny16/step=2-seed=0/000-kick.wav").is_file()
    capfd.readouterr()
    for verb in ("fit", "validate"):
        said = refusal([verb, f"--ckpt_path={home / path}"], capfd)
        assert all(word in said for word in (path, "optimizer", "runs/drums")), said
    said = refusal(["sample", f"--ckpt={home / path}", "--weights=raw"], capfd)
    assert "averaged" in said
    assert "--weights" in said
    assert not (here / "runs").exists()


def test_it_is_evaluated_and_scheduled_too(home, here):
    # The sounds that it was trained on are made here, from the data set's name.
    small = ["--n=6", "--sampler=DDIM", "--sampler.steps=3", "--embedding=log-mel", "--resamples=2"]
    main(["evaluate", f"--ckpt={home}/tiny16", *small])
    folder = here / "evaluation" / "tiny16"
    assert len(list((folder / "model-seed=0").glob("*.wav"))) == 6
    measured = folder / "model-seed=0-evaluation" / "evaluation.json"
    main(["export", f"--ckpt={home}/tiny16", "--out=out", f"--evaluation={measured}"])
    card = Path("out/README.md").read_text()
    assert re.search(r"\| Fréchet[^|]* \| [\d.]+ ± [\d.]+ \([\d.]+\) \|", card)
    assert "| pitch, Hz | " in card
    main(["schedule", f"--ckpt={home}/tiny16", "--steps=3", "--candidates=8", "--clips=4"])
    assert list(yaml.safe_load((here / "schedule.yaml").read_text())) == [3]


def test_without_a_run_the_model_that_comes_with_the_program_is_taken(ships, here, capfd):
    said = refusal(["sample"], capfd)
    assert "no run in runs/ to sample from" in said
    ships("synth")
    assert "no run in runs/" in refusal(["sample"], capfd)
    folder = ships("drums")
    assert checkpoint.shipped() == {"drums": folder, "synth": folder.with_name("synth")}
    before = sorted(folder.rglob("*"))
    main(["sample", "--n=2"])
    said = capfd.readouterr().out
    assert "no --ckpt, and no run in runs/: the model drums that comes with the program" in said
    files = sorted((here / "sounds/drums/step=2-seed=0").glob("*.wav"))
    assert [f.name for f in files] == ["000-cymbal.wav", "001-kick.wav"]
    assert abs(soundfile.read(files[0])[0]).max() > 1e-3
    assert sorted(folder.rglob("*")) == before  # nothing is written into the program's own folder
    assert [p.name for p in here.iterdir()] == ["sounds"]  # nor a run that is none


def test_the_newest_run_is_preferred_to_the_model_that_comes_with_the_program(home, ships, monkeypatch, capfd):
    ships("drums")
    monkeypatch.chdir(home)
    assert runs.given_or_newest(None, "") == Path("runs/tiny/checkpoints/last.ckpt")
    assert capfd.readouterr().out == "no --ckpt: runs/tiny/checkpoints/last.ckpt, the last of the newest run\n"
    assert runs.given_or_newest("x", "") == "x"
    assert capfd.readouterr().out == ""


def test_a_model_has_a_name_and_a_path_comes_first(ships, here, home, capfd):
    folder = ships("drums")
    assert checkpoint.find("drums") == folder / "model.safetensors"
    assert "optimizer" in refusal(["fit", "--ckpt_path=drums"], capfd)
    said = refusal(["sample", "--ckpt=drumz"], capfd)
    assert "a model that is here: drums" in said
    (here / "drums").mkdir()
    assert "no checkpoint in drums" in refusal(["sample", "--ckpt=drums"], capfd)
    shutil.copytree(home / "tiny32", here / "drums", dirs_exist_ok=True)
    assert checkpoint.find("drums") == Path("drums/model.safetensors")


def test_every_model_that_comes_with_the_program_is_whole():
    for name, folder in checkpoint.shipped().items():
        model = checkpoint.load(name)
        assert model.path == folder / "model.safetensors"
        assert f"# {name}" in (folder / "README.md").read_text()
        recipe = yaml.safe_load((folder / "config.yaml").read_text())
        assert portable(recipe, model) == recipe


def test_help_tells_what_can_be_exported(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "--help"])
    assert stop.value.code == 0
    assert "safetensors" in capsys.readouterr().out


def test_a_weaker_model_and_a_guidance_go_along(home, here):
    alone = here / "alone"
    state = torch.load(home / "runs/tiny/checkpoints/last.ckpt", weights_only=True)
    state["state_dict"] = {k: v for k, v in state["state_dict"].items() if not k.startswith("denoiser.weak.")}
    state[KEY]["config"]["model"]["weak"] = None
    alone.mkdir()
    torch.save(state, alone / "last.ckpt")
    for name, x in state["state_dict"].items():
        if ".net." in name and x.is_floating_point():
            x *= 0.9
    torch.save(state, alone / "early.ckpt")
    led = ["--guidance.weight=2", "--guidance.auto=3"]
    main(["export", "--ckpt=alone", "--weak=alone/early.ckpt", *led, "--dtype=float32", "--out=both"])
    model = checkpoint.load(here / "both")
    assert (model.module.guidance.weight, model.module.guidance.auto) == (2, 3)
    assert "| weak network | UNet |" in (here / "both" / "README.md").read_text()
    expected = checkpoint.load(alone, weak=alone / "early.ckpt")
    label, guidance = torch.arange(3), model.module.guidance
    with torch.inference_mode():
        ours, theirs = (
            m.module.sample(m.length, label, m.module.generators(range(3)), DPMSolverSDE(4), guidance=guidance)
            for m in (model, expected)
        )
    assert torch.equal(ours, theirs)

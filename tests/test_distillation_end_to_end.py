"""A student through `fit`: it begins as its teacher, goes on where it was stopped, and is heard in its few calls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_cli import SMALL

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import main
from diffwave_sde.cli.kinds import CONFIGS
from diffwave_sde.demo.studio import Settings, Studio
from diffwave_sde.denoiser import Condition
from diffwave_sde.model import KEY

RUN = [o for o in SMALL if "model" not in o and not o.startswith(("--config", "--data.length"))]
STUDENTS = {
    "progressive": [f"--config={CONFIGS}/experiment/distil.yaml"],
    "consistency": [f"--config={CONFIGS}/experiment/consistency.yaml"],
    "told": [f"--config={CONFIGS}/experiment/distil-guidance.yaml"],
    "continuous": [f"--config={CONFIGS}/experiment/continuous-consistency.yaml"],
    "tuning": [f"--config={CONFIGS}/experiment/consistency-tuning.yaml"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs/teacher, and two students."""
    home = tmp_path_factory.mktemp("home")
    before = os.getcwd()
    os.chdir(home)
    try:
        main(["fit", f"--data.root={home}/stores", *SMALL, "--trainer.max_steps=2", "--name=teacher"])
        for name in ("progressive", "consistency"):
            fit(home, name, 2)
    finally:
        os.chdir(before)
    return home


def arguments(home, name, steps):
    options = [
        f"--data.root={home}/stores",
        *RUN,
        "--model.loss.teacher=runs/teacher",
        "--model.optimizer=AdamW",
        "--model.scheduler.decay=0",
    ]
    return [*STUDENTS[name], *options, f"--trainer.max_steps={steps}", f"--name={name}"]


def fit(home, name, steps, *more):
    main(["fit", *arguments(home, name, steps), *more])


def state(path):
    return torch.load(Path(path) / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["progressive", "consistency"])
def test_a_student_is_a_model_of_its_own_that_is_heard_in_four_calls(name, home, monkeypatch):
    monkeypatch.chdir(home)
    saved, teacher = state(f"runs/{name}"), state("runs/teacher")
    own = {k for k in teacher["state_dict"] if k.startswith("denoiser.") and ".weak." not in k}
    assert {k for k in saved["state_dict"] if k.startswith("denoiser.")} == own
    assert {k for k in saved["state_dict"] if k.startswith("loss.")} == (
        {"loss.step"} if name != "progressive" else set()
    )
    # Two steps from the teacher, and not from a network of its own.
    for k in own:
        assert float((saved["state_dict"][k].float() - teacher["state_dict"][k].float()).abs().max()) < 0.01, k
    assert saved[KEY]["length"] == 2000
    assert saved[KEY]["config"]["model"]["loss"]["init_args"]["teacher"] == "runs/teacher"
    main(["sample", f"--ckpt=runs/{name}", "--n=3", f"--out=sounds-{name}"])
    assert json.loads((home / f"sounds-{name}" / "sounds.json").read_text())["nfe"] == 4


def test_a_student_of_a_range_of_guidance_is_told_the_weight_and_takes_one_pass(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    fit(home, "told", 3, "--model.optimizer.lr=0.05")
    sounds = {}
    for weight in (1, 4):
        main(["sample", "--ckpt=runs/told", "--n=2", f"--out=told-{weight}", f"--guidance.weight={weight}"])
        record = json.loads((home / f"told-{weight}" / "sounds.json").read_text())
        assert record["nfe"] == 4
        sounds[weight] = (home / f"told-{weight}" / record["sounds"][0]["file"]).read_bytes()
    assert sounds[1] != sounds[4]
    main(["export", "--ckpt=runs/told", "--format=program", "--guidance.weight=4", f"--out={tmp_path}/told"])
    model = checkpoint.load("runs/told").module
    u, t, label = torch.randn(2, 1, 1, 2000), torch.full((2,), 0.5).double(), torch.zeros(2, dtype=torch.long)
    D = torch.export.load(tmp_path / "told/model.pt2").module()(u, t, label)
    told = Condition(label=label, guidance=torch.full((2,), 4.0))
    torch.testing.assert_close(D, model.denoiser(u, t, told), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "told/sampling.json").read_text())["guidance"] == 1


def test_the_page_of_a_student_has_its_teacher_s_sounds_of_the_same_noise(home, monkeypatch):
    monkeypatch.chdir(home)
    samples = home / "runs/progressive/samples"
    assert "teacher" in (samples / "index.html").read_text()
    files = sorted((samples / "teacher").glob("*.wav"))
    assert [f.name for f in files] == [f.name for f in sorted((samples / "step=2").glob("*.wav"))]
    teacher = checkpoint.load("runs/teacher").module
    label = torch.arange(len(files)) % teacher.denoiser.net.classes
    with torch.no_grad():
        sounds = teacher.sample(2000, label, teacher.generators(range(len(files))))
    torch.testing.assert_close(audio.read(files[1])[0], sounds[1, 0], rtol=1e-3, atol=1e-4)


def test_a_student_that_goes_on_is_the_one_that_never_stopped(home, monkeypatch):
    monkeypatch.chdir(home)
    fit(home, "tuning", 4, "--name=whole", "--model.loss.every=1")
    fit(home, "tuning", 2, "--name=parts", "--model.loss.every=1")
    main(["fit", "--ckpt_path=runs/parts", "--trainer.max_steps=4"])
    whole, parts = (state(f"runs/{n}")["state_dict"] for n in ("whole", "parts"))
    assert int(whole["loss.step"]) == 3
    for k in whole:
        torch.testing.assert_close(parts[k], whole[k], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["progressive", "continuous"])
def test_a_student_is_the_same_on_two_processes(name, home, monkeypatch):
    monkeypatch.chdir(home)
    fit(home, name, 3, f"--name={name}-one", "--data.batch_size=4")
    command = [sys.executable, "-m", "diffwave_sde", "fit", *arguments(home, name, 3)]
    two = [f"--name={name}-two", "--data.batch_size=2", "--trainer.devices=2"]
    subprocess.run([*command, *two], check=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (state(f"runs/{name}-{n}")["state_dict"] for n in ("one", "two"))
    for k in one:
        torch.testing.assert_close(two[k], one[k], rtol=0, atol=1e-4)


def test_an_export_tells_whose_student_it_is_and_needs_no_teacher(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    main(["export", "--ckpt=runs/consistency", f"--out={tmp_path}/fast"])
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(Path("fast/config.yaml").read_text())
    assert recipe["config"]["model"]["loss"]["init_args"]["teacher"] == "teacher"
    loaded = checkpoint.load("fast")
    assert loaded.module.sampler.steps == 4
    x = loaded.module.sample(2000, torch.tensor([0]), loaded.module.generators([0]))
    assert x.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.loss.teacher=nowhere"], "no checkpoint at nowhere"),
        (["--model.sde=VP"], "the student's process is not that of the teacher"),
        (["--model.net.channels=[8,8,16]"], "the student's network is not that of the teacher"),
        (["--model.loss.steps=2"], "the student learns 2 steps"),
        (["--model.sampler.eta=0.3"], "eta = 0.3 adds noise to it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message, home, monkeypatch, capfd):
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit):
        fit(home, "progressive", 1, "--name=refused", *options)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("diffwave-sde: ")]
    assert len(said) == 1
    assert message in said[0]


def test_a_student_that_starts_from_another_keeps_its_weights(home, monkeypatch):
    monkeypatch.chdir(home)
    fit(home, "progressive", 1, "--init=runs/progressive", "--model.optimizer.lr=1e-12", "--name=further")
    before, after, teacher = (
        checkpoint.load(f"runs/{name}").module.denoiser.net.state_dict()
        for name in ("progressive", "further", "teacher")
    )
    for k in before:
        assert torch.allclose(after[k], before[k], atol=1e-7, rtol=1e-5), k
    assert any(not torch.allclose(after[k], teacher[k], atol=1e-7, rtol=1e-5) for k in before)


def test_a_student_of_four_steps_says_so_where_others_are_asked_for(tmp_path, capfd):
    assert checkpoint.load("drums-fast").taught == 4
    assert checkpoint.load("drums").taught is None
    student = checkpoint.load("drums-fast")
    studio = Studio(student)
    assert studio.offered == ["DDIM"]
    with pytest.raises(ValueError, match="8 steps: this model learned 4, and no others"):
        studio.new(["kick"], [0], Settings(steps=8))
    main(["export", "--ckpt=drums-fast", f"--out={tmp_path}/again"])
    assert checkpoint.licence(tmp_path / "again" / "model.safetensors") == checkpoint.licence(student.path)
    assert checkpoint.licence(student.path).startswith("CC0")
    sample = ["sample", "--ckpt=drums-fast", "--n=1", f"--out={tmp_path}/out", "--sampler=DDIM"]
    main([*sample, "--sampler.steps=2"])
    assert "--sampler.steps 2: " in capfd.readouterr().err
    main([*sample, "--sampler.steps=4", "--out", f"{tmp_path}/other"])
    assert "no others" not in capfd.readouterr().err

"""The command line, used as a user would: what it makes, and what it says to bad input."""

import copy
import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import soundfile
import torch
import yaml
from refusal import refusal
from tape import Tapes

from diffwave_sde import checkpoint
from diffwave_sde.cli import evaluate, kinds, lightning, main, runs
from diffwave_sde.data.sources import Rendered
from diffwave_sde.metrics import MEASUREMENTS, report
from diffwave_sde.model import Model
from diffwave_sde.module import DiffusionModule
from diffwave_sde.samplers import capture
from diffwave_sde.sde import VDM

SMALL = [
    f"--config={kinds.CONFIGS / 'experiment' / 'autoguidance.yaml'}",
    "--data.dataset=drums",
    "--data.count=80",
    "--data.length=2000",
    "--data.batch_size=4",
    "--model.net.channels=[8,8,8]",
    "--model.net.embedding=8",
    "--model.net.heads=2",
    "--model.weak.channels=[4,4,4]",
    "--model.weak.embedding=8",
    "--model.guidance.weight=3",
    "--model.guidance.auto=1.5",
    "--model.sampler.steps=2",
    # In float32: what bfloat16 rounds, as Muon too does where it is fast, differs from one grouping to another.
    "--trainer.precision=32-true",
    "--model.optimizer=AdamW",
    "--model.optimizer.lr=5e-4",
    "--model.scheduler.warmup=2",
    "--model.scheduler.decay=0",  # which would depend on the length of a run
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.logger=false",
    "--trainer.val_check_interval=3",
    "--trainer.log_every_n_steps=2",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that the runs of this module share."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(run):
    """The checkpoint that a run ended with."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def difference(a, b):
    """The largest difference between raw and averaged weights of two checkpoints."""
    return max(
        (a[kind][name].double() - b[kind][name].double()).abs().max().item()
        for kind in ("state_dict", "current_model_state")
        for name in a[kind]
    )


def fit(store, *arguments):
    main(["fit", f"--data.root={store}", *SMALL, *arguments])


def whole(store, folder, *arguments):
    """A run of six steps in `folder`."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        fit(store, *arguments, "--trainer.max_steps=6", "--name=whole")
    finally:
        os.chdir(before)
    return folder / "runs" / "whole"


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return whole(store, tmp_path_factory.mktemp("run"))


def test_a_run_leaves_its_configuration_checkpoints_sounds_and_a_page(run):
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    assert {"best.ckpt", "last.ckpt"} <= {p.name for p in (run / "checkpoints").iterdir()}
    assert len(list((run / "samples" / "step=6").glob("*.wav"))) == 12
    assert (run / "samples" / "index.html").is_file()


def test_the_likelihood_of_no_data_is_that_of_the_clips_held_out(run, store, here, capsys):
    main(["likelihood", f"--ckpt={run}", "--probes=1", "--terms=1", "--device=cpu"])
    out = run / "likelihood" / "held-out-bound"
    with open(out / "likelihood.csv", newline="") as file:
        found = sorted((line["file"], line["label"]) for line in csv.DictReader(file))
    data = checkpoint.data(run)
    rows = set(data.splits["validation"].tolist())
    lines = [line for line in data.store.manifest() if line["row"] and int(line["row"]) in rows]
    assert found == sorted((line["file"], line["label"]) for line in lines)
    assert rows
    assert f"each sound: {out / 'likelihood.csv'}" in capsys.readouterr().out


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(run, store, here):
    # Stopped in the middle of an epoch, and between two validations.
    fit(store, "--trainer.max_steps=4", "--name=part")
    main(["fit", "--name=part", "--ckpt_path=last", "--trainer.max_steps=6"])
    assert difference(weights(here / "runs" / "part"), weights(run)) == 0
    assert (here / "runs" / "part" / "config.1.yaml").is_file()  # the first configuration is kept


def test_the_best_checkpoint_is_one_file_and_is_found_whatever_it_is_called(store, here):
    """Called after a metric with a slash, or put into a folder; moved with its run; where the last is older than it."""
    saves = {
        "flat": {"filename": "best-{val/loss:.3f}-{step}"},
        "folder": {"filename": "mine/x-{step}", "auto_insert_metric_name": False},
    }
    for name, options in saves.items():
        best = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", **options}}
        last = {"class_path": "LastCheckpoint", "init_args": {"every": 4}}
        (here / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [last, best]}}))
        # The last checkpoint is older than the validation after step 4, which it does not know of.
        steps = ("--trainer.max_steps=4", "--trainer.val_check_interval=2")
        fit(store, f"--name={name}", f"--config={name}.yaml", *steps)
        home = here / "runs" / name / "checkpoints"
        (kept,) = set(home.rglob("*.ckpt")) - {home / "last.ckpt"}
        pattern = {"flat": r"best-val_loss=[0-9.]+[0-9]-step=[24]\.ckpt", "folder": r"mine/x-[24]\.ckpt"}[name]
        assert re.fullmatch(pattern, kept.relative_to(home).as_posix())
        assert runs.resolve("best", name).resolve() == kept
        assert runs.folder_of(kept) == here / "runs" / name
        (here / "runs" / name).rename(here / "runs" / "moved")
        assert runs.resolve("best", "moved").resolve() == here / "runs" / "moved" / "checkpoints" / kept.relative_to(
            home
        )
        shutil.rmtree(here / "runs" / "moved")


def test_another_seed_gives_other_weights(run, store, here):
    fit(store, "--trainer.max_steps=6", "--model.seed=1", "--name=other")
    assert difference(weights(here / "runs" / "other"), weights(run)) > 1e-6


def test_two_processes_train_as_one_with_the_same_global_batch(run, store, here):
    command = [
        sys.executable, "-m", "diffwave_sde", "fit", f"--data.root={store}", *SMALL, "--data.batch_size=2",
        "--trainer.devices=2", "--trainer.max_steps=6", "--name=two",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert difference(weights(here / "runs" / "two"), weights(run)) < 1e-5


# A process and a law of times that are learned on the way: both have a state of their own.
LEARNED = [
    "--model.weak=null",
    "--model.sde=VDM",
    "--model.loss.weight=LikelihoodWeight",
    "--model.loss.time=ImportanceTime",
    "--model.loss.time.base=UniformTime",
    "--model.loss.time.history=1",
    "--model.loss.time.buckets=2",
    "--model.loss.time_sampling=low-discrepancy",
]


@pytest.fixture(scope="module")
def learned(store, tmp_path_factory):
    return whole(store, tmp_path_factory.mktemp("learned"), *LEARNED)


def test_what_is_learned_on_the_way_is_learned(learned):
    state = weights(learned)["current_model_state"]
    assert state["loss.time.seen"].min() >= 1
    assert not torch.equal(state["denoiser.sde.heights"], VDM().heights)


def test_it_too_goes_on_as_if_never_stopped(learned, store, here):
    fit(store, *LEARNED, "--trainer.max_steps=4", "--name=part")
    main(["fit", "--name=part", "--ckpt_path=last", "--trainer.max_steps=6"])
    assert difference(weights(here / "runs" / "part"), weights(learned)) == 0


def test_it_too_is_the_same_on_two_processes(learned, store, here):
    command = [
        sys.executable, "-m", "diffwave_sde", "fit", f"--data.root={store}", *SMALL, *LEARNED, "--data.batch_size=2",
        "--trainer.devices=2", "--trainer.max_steps=6", "--name=two",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert difference(weights(here / "runs" / "two"), weights(learned)) < 1e-4


def test_accumulated_batches_average_once_per_optimizer_step(store, here):
    fit(store, "--trainer.max_steps=3", "--trainer.accumulate_grad_batches=2", "--name=accumulated")
    state = weights(here / "runs" / "accumulated")
    assert int(state["averaging_state"]["n_averaged"]) == 3
    assert state["diffwave_sde"]["batches"] == 6


def test_accumulated_batches_are_one_of_their_sum(store, here):
    for size, parts in ((4, 1), (2, 2)):
        name = f"--name=parts{parts}"
        fit(
            store,
            f"--data.batch_size={size}",
            f"--trainer.accumulate_grad_batches={parts}",
            "--trainer.max_steps=4",
            name,
        )
    one, two = (weights(here / "runs" / f"parts{parts}") for parts in (1, 2))
    assert difference(two, one) < 3e-5  # rounding: the first gradients differ by 6e-7, and AdamW steps by their signs


def test_a_run_of_the_same_name_takes_another_folder(run, store, here):
    for _ in range(2):
        fit(
            store,
            "--trainer.max_steps=1",
            "--trainer.callbacks=[]",
            "--name=again",
            "--trainer.enable_checkpointing=false",
        )
    assert {p.name for p in (here / "runs").iterdir()} == {"again", "again-2"}


def test_langevin_dynamics_train_and_sample_from_the_command_line(store, here):
    fit(store, "--trainer.max_steps=2", "--model.sde=CLD", "--model.sde.friction=0.7", "--name=cld")
    main(["sample", "--ckpt=runs/cld", "--n=2", "--sampler=EulerMaruyama", "--sampler.steps=3", "--out=out"])
    assert len(list((here / "out").glob("*.wav"))) == 2
    assert checkpoint.load("runs/cld").module.denoiser.sde.friction == 0.7


def test_the_same_seed_gives_the_same_sounds_whatever_the_batch_size(run, here):
    for out, size, n in (("a", 3, 3), ("b", 1, 3), ("c", 2, 2)):
        options = [f"--out={out}", f"--batch_size={size}", f"--n={n}", "--seed=5", "--label=snare"]
        main(["sample", f"--ckpt={run}", *options, "--sampler=DDIM", "--sampler.steps=3", "--sampler.eta=1"])
    for name in ("000-snare.wav", "001-snare.wav", "002-snare.wav"):
        a, rate = soundfile.read(here / "a" / name)
        b, _ = soundfile.read(here / "b" / name)
        assert rate == 44_100
        assert len(a) == 2000
        assert abs(a - b).max() < 1e-4
        if (here / "c" / name).exists():
            assert abs(a - soundfile.read(here / "c" / name)[0]).max() < 1e-4
    assert abs(a).max() > 1e-3  # and they are not silence


def test_captured_sounds_are_the_same_in_batches_that_are_not_full_too(run, here, monkeypatch):
    monkeypatch.setattr(capture, "CudaGraphs", lambda device: Tapes())
    for out, options in {"plain": [], "captured": ["--cuda_graphs"]}.items():
        main(["sample", f"--ckpt={run}", f"--out={out}", "--n=3", "--batch_size=2", "--device=cpu", *options])
    plain, captured = (sorted((here / out).glob("*.wav")) for out in ("plain", "captured"))
    assert len(plain) == 3
    for a, b in zip(plain, captured, strict=True):
        assert abs(soundfile.read(a)[0] - soundfile.read(b)[0]).max() < 1e-4


def test_a_learned_grid_is_one_command_and_one_option(run, here, capsys):
    main(["schedule", f"--ckpt={run}", "--steps=3,5", "--candidates=12", "--clips=4", "--out=grids.yaml"])
    assert sorted(yaml.safe_load((here / "grids.yaml").read_text())) == [3, 5]
    main(
        [
            "sample", f"--ckpt={run}", "--n=1", "--sampler=DDIM", "--sampler.steps=5", "--sampler.grid=LearnedGrid",
            "--sampler.grid.file=grids.yaml", "--clip=dynamic", "--out=out",
        ]
    )  # fmt: skip
    record = json.loads((here / "out" / "sounds.json").read_text())
    assert (record["nfe"], record["clip"]) == (5, "dynamic")
    assert "12 network calls" in capsys.readouterr().out
    assert (here / "grids.png").read_bytes().startswith(b"\x89PNG")


def test_sounds_of_half_precision_are_nearly_those_of_the_seed(run, here):
    for name in ("32", "bf16"):
        main(
            [
                "sample",
                f"--ckpt={run}",
                "--n=2",
                "--sampler=DDIM",
                "--sampler.steps=4",
                f"--precision={name}",
                f"--out={name}",
            ]
        )
        assert json.loads((here / name / "sounds.json").read_text())["precision"] == name
    for file in sorted((here / "32").glob("*.wav")):
        exact, near = (torch.from_numpy(soundfile.read(here / name / file.name)[0]) for name in ("32", "bf16"))
        assert 0 < (near - exact).norm() < 0.03 * exact.norm()


def test_samplers_without_a_grid_sample_too(run, here):
    main(["sample", f"--ckpt={run}", "--n=1", "--sampler=GottaGoFast", "--sampler.max_nfe=20", "--out=out"])
    assert json.loads((here / "out" / "sounds.json").read_text())["nfe"] <= 20


def test_a_sample_says_how_it_was_made(run, here, capsys):
    main(["sample", f"--ckpt={run}", "--n=2", "--sampler=Heun", "--sampler.steps=4", "--out=out"])
    record = json.loads((here / "out" / "sounds.json").read_text())
    assert record["nfe"] == 7
    assert [s["label"] for s in record["sounds"]] == ["cymbal", "kick"]
    assert (here / "out" / "index.html").is_file()
    assert "real-time factor" in capsys.readouterr().out


def test_sounds_are_led_as_the_model_says_or_as_asked(run, here):
    options = ["sample", f"--ckpt={run}", "--n=2", "--sampler=DDIM", "--sampler.steps=3"]
    by_class = ["--guidance.weight=3", "--guidance.low=1", "--guidance.high=20"]
    by_weak = ["--guidance.auto=1.5", "--guidance.auto_sigma_min=0.1", "--guidance.auto_sigma_max=10"]
    auto = "auto 1.5 from σ = 0.1 up to σ = 10"
    asked = {
        "own": ([], f"3 from σ = 1 up to σ = 20, {auto}"),
        "same": ([*by_class, *by_weak], f"3 from σ = 1 up to σ = 20, {auto}"),
        "class": (["--guidance.auto=1"], "3 from σ = 1 up to σ = 20"),
        "weak": (["--guidance.weight=1"], auto),
        "none": (["--guidance.weight=1", "--guidance.auto=1"], "none"),
        "more": (["--guidance.weight=5", "--guidance.high=30"], f"5 from σ = 1 up to σ = 30, {auto}"),
        "all": (["--guidance.weight=4", "--guidance.low=0", "--guidance.high=.inf", "--guidance.auto=1"], "4"),
    }
    sounds = {}
    for name, (more, told) in asked.items():
        main([*options, *more, f"--out={name}"])
        assert json.loads((here / name / "sounds.json").read_text())["guidance"] == told
        sounds[name] = soundfile.read(here / name / "000-cymbal.wav")[0]
    assert (sounds["own"] == sounds["same"]).all()
    # Little, since the network has taken six steps; but far more than rounding, which is 1e-7 here.
    names = sorted(set(sounds) - {"same"})
    for i, one in enumerate(names):
        for other in names[:i]:
            assert abs(sounds[one] - sounds[other]).max() > 3e-6, (one, other)


def test_a_file_may_leave_the_guidance_to_the_model(run, here):
    (here / "options.yaml").write_text("guidance: null\n")
    options = ["sample", f"--ckpt={run}", "--n=1", "--sampler=DDIM", "--sampler.steps=2", "--config=options.yaml"]
    main([*options, "--out=whole"])
    main([*options, "--guidance.low=2", "--out=part"])
    told = [json.loads((here / name / "sounds.json").read_text())["guidance"] for name in ("whole", "part")]
    assert [text.split(",")[0] for text in told] == ["3 from σ = 1 up to σ = 20", "3 from σ = 2 up to σ = 20"]


def test_an_earlier_state_of_a_run_leads_the_later_one(run, here, capfd):
    weak = run / "checkpoints" / "early.ckpt"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state["state_dict"] = {k: v * 0.5 if k.startswith("denoiser.net.") else v for k, v in state["state_dict"].items()}
    torch.save(state, weak)
    options = ["sample", f"--ckpt={run}", "--n=2", "--sampler=DDIM", "--sampler.steps=3"]
    main([*options, "--out=own"])
    main([*options, f"--weak={weak}", "--out=led"])
    record = json.loads((here / "led" / "sounds.json").read_text())
    assert record["weak"] == str(weak)
    own, led = (soundfile.read(here / name / "001-kick.wav")[0] for name in ("own", "led"))
    assert abs(own - led).max() > 3e-6
    model, module = checkpoint.load(run, weak=weak), checkpoint.load(run).module
    for one, other in zip(model.module.denoiser.weak.net.parameters(), module.denoiser.net.parameters(), strict=True):
        assert torch.equal(one, 0.5 * other)
    refusals = {
        "--guidance.auto=1": f"--weak {weak} has no effect at a weight of 1: add --guidance.auto 1.5",
        "--weak=nowhere": "no checkpoint at nowhere",
    }
    for more, says in refusals.items():
        assert says in refusal([*options, f"--weak={weak}", more, "--out=x"], capfd)
    for what, value, says in (
        ("labels", ["a", "b", "c"], "its labels is ['a', 'b', 'c']"),
        ("config", {"sde": None}, "its sde is another"),
    ):
        other = copy.deepcopy(state)
        if what == "config":
            other["diffwave_sde"]["config"]["model"].update(value)
        else:
            other["diffwave_sde"][what] = value
        torch.save(other, run / "checkpoints" / "other.ckpt")
        with pytest.raises(ValueError, match=re.escape(says)):
            checkpoint.load(run, weak=run / "checkpoints" / "other.ckpt")
    (run / "checkpoints" / "other.ckpt").unlink()
    weak.unlink()


def test_autoguidance_without_a_weak_network_is_refused(run, here, capfd):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state["state_dict"] = {k: v for k, v in state["state_dict"].items() if not k.startswith("denoiser.weak.")}
    state["diffwave_sde"]["config"]["model"]["weak"] = None
    torch.save(state, here / "alone.ckpt")
    options = ["sample", "--ckpt=alone.ckpt", "--n=1", "--sampler=DDIM", "--sampler.steps=2", "--out=x"]
    main(options)  # its own guidance is as much as it has the means for
    assert json.loads((here / "x" / "sounds.json").read_text())["guidance"] == "3 from σ = 1 up to σ = 20"
    said = refusal([*options, "--guidance.auto=2"], capfd)
    assert "--guidance.auto 2: alone.ckpt has no weak network; give a weaker model, --weak" in said


def test_a_stopped_sample_keeps_what_it_has_and_goes_on(run, here, monkeypatch, capfd):
    options = ["sample", f"--ckpt={run}", "--batch_size=2", "--sampler=DDIM", "--sampler.steps=3"]
    main([*options, "--n=5", "--out=whole"])
    made, sample = [], Model.sample

    def interrupted(self, length, label, *rest, **more):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(len(label))
        return sample(self, length, label, *rest, **more)

    monkeypatch.setattr(Model, "sample", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([*options, "--n=5", "--out=out"])
    assert stop.value.code == 130
    listed = [s["file"] for s in json.loads((here / "out" / "sounds.json").read_text())["sounds"]]
    assert listed == sorted(f.name for f in (here / "out").glob("*.wav")) == ["000-cymbal.wav", "001-kick.wav"]
    assert "001-kick.wav" in (here / "out" / "index.html").read_text()
    assert not list((here / "out").glob("*.tmp"))
    monkeypatch.setattr(Model, "sample", lambda *a, **k: (made.append(len(a[2])), sample(*a, **k))[1])
    main([*options, "--n=5", "--out=out"])
    assert made == [2, 2, 1]
    assert "2 of which were there already" in capfd.readouterr().out
    for file in (here / "whole").glob("*.wav"):
        assert abs(soundfile.read(file)[0] - soundfile.read(here / "out" / file.name)[0]).max() < 1e-6
    # What was made in another way is made anew.
    main([*options, "--n=5", "--out=out", "--seed=1"])
    assert made == [2, 2, 1, 2, 2, 1]


def test_a_checkpoint_is_laid_against_what_it_was_trained_on(run, here, capsys):
    options = ["--n=6", "--sampler=DDIM", "--sampler.steps=3", "--embedding=log-mel", "--resamples=2", "--out=seen"]
    options.append("--guidance.weight=4")
    main(["evaluate", f"--ckpt={run}", *options])
    (made,) = (run / "evaluation").glob("*/sounds.json")
    assert json.loads(made.read_text())["guidance"] == "4 from σ = 1 up to σ = 20, auto 1.5 from σ = 0.1 up to σ = 10"
    found = json.loads((here / "seen" / "evaluation.json").read_text())
    assert set(found["embeddings"]["log-mel"]) == {"all", "cymbal", "kick", "snare"}
    assert found["embeddings"]["log-mel"]["all"]["frechet"]["floor"] > 0
    assert len(found["neighbours"]["nearest"]) == 6
    assert "nearest real sound" in (here / "seen" / "index.html").read_text()
    said = capsys.readouterr().out
    assert all(word in said for word in ("Fréchet", "floor", "pitch", "index.html"))
    # A second time nothing is made anew.
    main(["evaluate", f"--ckpt={run}", *options])
    assert "6 of which were there already" in capsys.readouterr().out
    assert json.loads((here / "seen" / "evaluation.json").read_text()) == found


def test_a_folder_is_laid_against_a_folder(here, capfd):
    for folder, first in (("real", 0), ("made", 30)):
        for i in range(first, first + 24):
            clip = Rendered("drums", i, 5).load(6000)
            file = here / folder / clip.label / f"{i}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, clip.window, 44_100)
    (here / "made" / "kick" / "broken.wav").write_text("no sound")
    options = ["--real=real", "--generated=made", "--embedding=log-mel", "--resamples=2", "--length=6000"]
    main(["evaluate", *options])
    found = json.loads((here / "made-evaluation" / "evaluation.json").read_text())
    assert found["embeddings"]["log-mel"]["all"]["accuracy"]["value"] > 0.8
    assert found["measurements"]["peak"]["unit"] == "dBFS"
    said = capfd.readouterr().err
    assert "broken.wav" in said
    assert "1 files left out" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--real=/no/such", "--generated=x"], ["/no/such", "no such folder"]),
        (["--real=drums", "--generated=/no/such"], ["/no/such", "--generated"]),
        (["--embedding=ears"], ["ears", "log-mel"]),
        (["--embedding=log-mel,vggish=/no/such"], ["/no/such", "not the weights of VGGish"]),
        (["--embedding=clap=x"], ["x", "CLAP", "config.json"]),
        (["--embedding=learned,learned"], ["learned stands there twice"]),
        (["--count=1"], ["--count 1"]),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(options, words, here, capfd):
    (here / "x").mkdir()
    said = refusal(["evaluate", *options, "--resamples=2"], capfd)
    assert all(word in said for word in words), said


def test_tables_fit_80_columns_and_hold_a_dash_for_what_has_no_value(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    figure = {"value": -0.123, "spread": 0.456, "floor": 234.5, "floor_spread": 0.1}
    names = ("all", "closed hi-hat", "kick", "rim shot", "snare", "tom")
    parts = {name: {"count": 96} | dict.fromkeys(report.METRICS, figure) for name in names}
    measurements = {
        name: {"unit": m.unit, "real": [-43.77, -43.77, -43.77, 1.0], "generated": [-43.77, -43.77, -43.77, 1.0]}
        | {"difference": 0.5, "floor": 0.5}
        for name, m in MEASUREMENTS.items()
    }
    nothing = [math.nan] * 3 + [0.0]
    measurements["pitch"] |= {"real": nothing, "difference": math.nan, "floor": math.nan}
    near = {"close": 0.1, "duplicates": 0.1, "repeated": 0.1}
    found = {"embeddings": {"log-mel": parts}, "measurements": measurements, "neighbours": near}
    evaluate._print(report.plain(found))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [word for line in lines for word in names if f"{word} (96)" in line]
    assert heads == list(names)
    assert sum(line.startswith("Fréchet") for line in lines) == 2
    (pitch,) = (line for line in lines if line.startswith("pitch, Hz"))
    assert pitch.split()[2:] == ["–", "-43.8", "(-43.8,", "-43.8)", "–", "–"]
    assert all(any(line.startswith(name.replace("_", " ") + ", ") for line in lines) for name in MEASUREMENTS)
    found = {"embeddings": {}, "measurements": measurements, "neighbours": near, "left_out": ["cowbell"]}
    evaluate._print(report.plain(found))
    assert "not in the distances, with one real sound alone: cowbell" in capsys.readouterr().out


def test_raw_and_averaged_weights_are_both_to_be_had(run):
    raw = checkpoint.load(run, "raw").module.state_dict()
    averaged = checkpoint.load(run).module.state_dict()
    assert any(not torch.equal(raw[k], averaged[k]) for k in raw)


def test_who_listens_gets_a_model_and_who_measures_one_with_its_losses(run):
    heard, whole = checkpoint.load(run).module, checkpoint.load(run, kind=DiffusionModule).module
    assert type(heard) is Model
    assert type(whole) is DiffusionModule
    data = checkpoint.data(checkpoint.find(run))
    data.prepare_data()
    losses = torch.cat([whole.fixed_noise_loss(batch)[0] for batch in data.val_dataloader()])
    assert losses.isfinite().all()
    assert len(losses) == len(data.splits["validation"])
    label = torch.tensor([0, 1])
    a, b = (m.sample(500, label, m.generators([0, 1])) for m in (heard, whole))
    assert torch.equal(a, b)


def test_validation_of_a_checkpoint_repeats_the_loss_of_the_run(run, here, capsys):
    losses = []
    for _ in range(2):
        main(["validate", f"--ckpt_path={run}"])
        line = next(line for line in capsys.readouterr().out.splitlines() if "val/loss " in line)
        losses.append(line)
    assert losses[0] == losses[1]


BAD = {
    "unknown verb": (["dance"], ["dance", "fit"]),
    "unknown dataset": (["fit", "--data.dataset=nope"], ["nope", "drums", "hydrogen", "folder"]),
    "missing folder": (["fit", "--data.dataset=/no/such"], ["/no/such", "no such folder"]),
    "negative length": (["fit", "--data.length=-5"], ["length", "-5", "21000"]),
    "unknown process": (["fit", "--model.sde=CLDD"], ["CLDD", "CLD, CosineVP", "VE, VP"]),
    "unknown option of a process": (["fit", "--model.sde=CLD", "--model.sde.frict=2"], ["frict", "friction"]),
    "value of a wrong type": (["fit", "--model.sde=VP", "--model.sde.beta_min=ab"], ["beta_min", "ab", "float"]),
    "value out of range": (["fit", "--model.sde=VP", "--model.sde.beta_min=30"], ["beta_min = 30", "beta_max"]),
    "unknown weight": (["fit", "--model.loss.weight=X"], ["X", "KarrasWeight"]),
    "typo in an option": (["fit", "--model.nett=3"], ["--model.nett", "--help"]),
    "heads that do not divide": (["fit", "--model.net.heads=7"], ["heads = 7", "320"]),
    "missing configuration": (["fit", "--config=/no/such.yaml"], ["/no/such.yaml"]),
    "nothing to go on with": (["fit", "--ckpt_path=last", "--name=none"], ["none", "--name"]),
    "missing checkpoint": (["sample", "--ckpt=/no/such"], ["/no/such"]),
    "not a checkpoint": (["sample", f"--ckpt={__file__}"], ["test_cli.py", "not a checkpoint"]),
    "no sounds": (["sample", "--n=0"], ["--n 0"]),
    "unknown sampler": (["sample", "--sampler=Foo"], ["Foo", "Heun"]),
    "unknown device": (["sample", "--device=tpu"], ["tpu", "cuda"]),
    "graphs on a CPU": (["sample", "--ckpt=drums", "--device=cpu", "--cuda_graphs"], ["CUDA graphs", "cpu", "without"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_that_names_it_and_the_remedy(case, here, capfd):
    arguments, words = BAD[case]
    said = refusal(arguments, capfd)
    for word in words:
        assert word in said
    assert not list(here.rglob("*.ckpt"))
    assert not (here / "runs").exists() or not any((here / "runs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label=gong"], ["gong", "cymbal, kick, snare"]),
        (["--sampler=Heun", "--sampler.steps=1"], ["steps = 1"]),
        (["--out=/proc/none"], ["/proc/none", "--out"]),
    ],
)
def test_bad_options_of_a_good_checkpoint_too(arguments, words, run, here, capfd):
    said = refusal(["sample", f"--ckpt={run}", *arguments], capfd)
    assert all(word in said for word in words), said


def test_a_checkpoint_of_another_model_is_refused_in_one_line(run, store, here, capfd):
    # Without the run's config.yaml beside it the weights must fit the model that is asked for.
    (here / "stray.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(SystemExit):
        fit(store, "--trainer.max_steps=8", "--ckpt_path=stray.ckpt", "--model.net.channels=[16,8,8]")
    said = capfd.readouterr().err.splitlines()[-1]
    assert "another model" in said
    assert "config.yaml" in said


def test_a_stopped_program_says_so(here, monkeypatch, capfd):
    monkeypatch.setattr(lightning, "CLI", lambda argv: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as stop:
        main(["fit"])
    assert stop.value.code == 130
    assert "stopped" in capfd.readouterr().err


def test_the_default_network_is_tiny_without_a_gpu_and_base_with_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kinds.default_network() == "tiny"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert kinds.default_network() == "base"


@pytest.mark.parametrize("verb", ["fit", "sample", "prepare", "schedule", "evaluate"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "default" in capsys.readouterr().out


def test_help_of_the_program_lists_the_verbs(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    assert all(
        verb in out for verb in ("fit", "validate", "test", "predict", "prepare", "sample", "schedule", "evaluate")
    )


def test_a_name_becomes_a_folder():
    assert runs.name_of("/my sounds/Kicks & Snares/") == "Kicks-Snares"
    assert runs.name_of("drums") == "drums"


def stopped_by(number: int, store, *more: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The status and the words of a run that is sent a signal after its first step."""
    command = [
        sys.executable, "-m", "diffwave_sde", "fit", f"--data.root={store}", *SMALL, "--name=stopped",
        "--trainer.max_steps=100000", "--trainer.val_check_interval=100000", *more,
    ]  # fmt: skip
    # On one thread, as the tests are: sums shared out among threads are rounded otherwise, and AdamW's first steps, of
    # one length whatever the gradient, make much of it.
    alone = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    process = subprocess.Popen(command, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if line.startswith("step 1/"):
            break
    process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    return process.returncode, said


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_signal_saves_the_step_at_hand_and_the_run_goes_on_from_there(number, status, store, here):
    code, said = stopped_by(number, store)
    assert code == status, said
    assert "val/loss" not in said  # which a scheduler may not wait for
    step = weights(here / "runs" / "stopped")["global_step"]
    assert f"stopped after step {step}; to go on: diffwave-sde fit --ckpt_path runs/stopped" in said
    main(["fit", "--ckpt_path", "runs/stopped", f"--trainer.max_steps={step + 2}"])
    fit(store, f"--trainer.max_steps={step + 2}", "--name=unstopped", "--trainer.val_check_interval=100000")
    assert difference(weights(here / "runs" / "stopped"), weights(here / "runs" / "unstopped")) == 0


@pytest.mark.slow
def test_a_job_of_slurm_that_is_warned_goes_back_into_the_queue_and_goes_on(store, here):
    scontrol = here / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" > asked\n')
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "PATH": f"{here}:{os.environ['PATH']}"}
    code, said = stopped_by(signal.SIGUSR1, store, env=job)
    assert code == 138, said
    assert (here / "asked").read_text() == "requeue 7\n"
    step = weights(here / "runs" / "stopped-7")["global_step"]
    again = [sys.executable, "-m", "diffwave_sde", "fit", f"--data.root={store}", *SMALL, "--name=stopped"]
    env = os.environ | job | {"SLURM_RESTART_COUNT": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*again, f"--trainer.max_steps={step + 1}"], env=env, check=True, timeout=120)
    assert weights(here / "runs" / "stopped-7")["global_step"] == step + 1


def test_an_absurd_learning_rate_fails_and_leaves_no_number_that_is_not_finite(store, here, capfd):
    with pytest.raises(SystemExit) as stop:
        fit(store, "--trainer.max_steps=60", "--name=absurd", "--model.optimizer.lr=1e35", "--model.scheduler.warmup=0")
    assert stop.value.code == 2
    assert "training has diverged" in capfd.readouterr().err.splitlines()[-1]
    for path in here.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        assert all(x.isfinite().all() for x in [*state["state_dict"].values(), *state["current_model_state"].values()])


def test_the_last_checkpoint_is_the_last_also_where_validation_gets_no_better(store, here):
    # A rate so high that the loss rises after the first validation.
    fit(store, "--trainer.max_steps=7", "--name=worse", "--model.optimizer.lr=1", "--model.scheduler.warmup=1")
    assert weights(here / "runs" / "worse")["global_step"] == 7


def test_last_means_the_newest_run_of_a_name(here):
    for age, folder in enumerate(("drums-2", "drums", "drums-kicks")):
        file = here / "runs" / folder / "checkpoints" / "last.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert runs.resolve("last", "drums").parts[1] == "drums-2"
    os.utime(here / "runs" / "drums" / "checkpoints" / "last.ckpt", (2000, 2000))
    assert runs.resolve("last", "drums").parts[1] == "drums"


def test_help_into_a_pipe_that_nobody_reads_to_its_end_says_nothing_more():
    command = f"set -o pipefail; {sys.executable} -m diffwave_sde sample --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("usage: diffwave-sde sample")
    assert done.stderr == ""

"""A model of one's own from a few sounds, and whether what it makes is a copy, from the command line."""

import json

import numpy as np
import pytest
import torch
from test_cli import SMALL

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import lightning, main
from diffwave_sde.data.builtin import render
from diffwave_sde.metrics.sets import Reader
from diffwave_sde.module import DiffusionModule

QUIET = ["--data.workers=0", "--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run to start from, with a weak network, in the folder of all that follows; beside it a folder of sounds."""
    here = tmp_path_factory.mktemp("finetuning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        main(["fit", *SMALL, "--data.workers=0", "--trainer.max_steps=3", "--name=first"])
    for i in range(36):
        name = ("my_kicks", "gong")[i % 2]
        sound = render("drums", i, 5, audio.RATE, 0.1).samples
        audio.write(here / "mine" / name / f"{i}.wav", torch.from_numpy(sound), audio.RATE)
    return here


@pytest.fixture
def here(run, monkeypatch):
    monkeypatch.chdir(run)
    return run


def refused(capfd, *arguments):
    """What is said of them, which is one line."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--data.dataset=mine", *QUIET, *arguments])
    assert stop.value.code == 2
    (said,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("diffwave-sde: "))
    return said


def test_a_folder_of_sounds_is_fine_tuned_from_the_weights_of_a_run_and_goes_on(here, monkeypatch, caplog):
    began = {}

    def remember(self):
        began.update({name: x.clone() for name, x in self.denoiser.state_dict().items()})

    monkeypatch.setattr(DiffusionModule, "on_train_start", remember)
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    main(["fit", "--data.dataset=mine", *QUIET, "--init=runs/first", "--data.batch_size=4", *steps])
    assert "fine-tuning runs/first, step 3; classes: my_kicks from kick; new: gong" in caplog.text
    assert "sample --ckpt runs/mine/checkpoints/best.ckpt" in caplog.text
    theirs = checkpoint.load("runs/first").module.denoiser.state_dict()
    rows = [name for name in theirs if name.endswith("label.weight")]
    assert len(rows) == 2  # of the weak network too
    assert all(torch.equal(began[name], theirs[name]) for name in theirs if name not in rows)
    for name in rows:
        cymbal, kick, snare, none = theirs[name]
        torch.testing.assert_close(began[name], torch.stack([(cymbal + kick + snare) / 3, kick, none]))
        assert torch.equal(began[name][1:], torch.stack([kick, none]))
    own = checkpoint.load("runs/mine", kind=DiffusionModule)
    assert (own.labels, own.length, own.mu, own.step) == (("gong", "my_kicks"), 2000, 0, 2)
    assert own.module.val_draws == 16
    assert own.module.denoiser.sigma_data == theirs["sigma_data"]
    assert own.module.guidance == checkpoint.load("runs/first").module.guidance
    state_file = "runs/mine/checkpoints/last.ckpt"
    state = checkpoint.read(state_file)
    assert state["diffwave_sde"]["started_from"] == {"name": "first", "step": 3}
    assert not torch.equal(state["state_dict"]["denoiser.net.stem.weight"], theirs["net.stem.weight"])
    began.clear()
    main(["fit", "--name=mine", "--ckpt_path=last", "--trainer.max_steps=3"])
    assert torch.equal(began["net.stem.weight"], state["current_model_state"]["denoiser.net.stem.weight"])
    assert checkpoint.load("runs/mine").step == 3
    assert checkpoint.read(state_file)["diffwave_sde"]["started_from"] == {"name": "first", "step": 3}


def test_ones_own_options_and_files_come_before_those_of_fine_tuning(here):
    (here / "own.yaml").write_text("model:\n  val_draws: 2\n  sigma_data: 0.3\ntrainer:\n  max_steps: 7\n")

    class Parsed(lightning.CLI):
        def before_instantiate_classes(self):
            raise StopIteration

    cli = Parsed.__new__(Parsed)
    with pytest.raises(StopIteration):
        cli.__init__(["fit", "--init=runs/first", "--config=own.yaml", "--model.sde=VP", "--trainer.max_steps=8"])
    options = cli.config["fit"]
    assert (options.model.val_draws, options.model.sigma_data, options.trainer.max_steps) == (2, 0.3, 8)
    assert options.model.sde.class_path.endswith(".VP")
    assert options.model.net.init_args.channels == [8, 8, 8]
    assert options.model.optimizer.init_args.lr == 3e-4
    assert [c.class_path.rpartition(".")[2] for c in options.trainer.callbacks][-1] == "EarlyStopping"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--init=drums", "--ckpt_path=last"], "--init drums starts a training, and --ckpt_path last goes on with one"),
        (["--init=nowhere"], "no checkpoint at nowhere: give a .ckpt file or a run's folder"),
        (["--init=runs/first", "--data.mu=255"], "was trained with data.mu = 0, and 255 is asked for: leave data.mu"),
        (["--init=runs/first", "--model.net.channels=[8,8,16]"], "--init runs/first: the network does not fit: "),
        (["--init=runs/first", "--model.sde=CLD", "--model.weak=null"], "of EDM, and CLD has 2: leave the process out"),
    ],
)
def test_what_cannot_be_started_from_is_refused_in_one_line(arguments, words, here, capfd):
    before = sorted((here / "runs").iterdir())
    assert words in refused(capfd, *arguments)
    assert sorted((here / "runs").iterdir()) == before


def test_each_sound_is_told_with_its_nearest_training_clip(here, capfd):
    options = ["sample", "--ckpt=runs/first", "--out=out", "--sampler=DDIM", "--sampler.steps=2", "--guidance.weight=1"]
    main([*options, "--n=2"])
    plain = (here / "out" / "000-cymbal.wav").read_bytes()
    page = (here / "out" / "index.html").read_text()
    main([*options, "--n=3", "--neighbours"])
    assert (here / "out" / "000-cymbal.wav").read_bytes() == plain
    said = capfd.readouterr().out.splitlines()[-1]
    record = json.loads((here / "out" / "sounds.json").read_text())
    assert record["neighbours"]["training_clips"] == len(checkpoint.data("runs/first").splits["train"])
    for sound in record["sounds"]:
        near = sound["neighbour"]
        assert near["file"].startswith("drums/0/")
        assert 0 <= near["nearer"] <= 1
        assert (here / "out" / near["heard"]).is_file()
    assert record["sounds"][0]["neighbour"]["told"] in (here / "out" / "index.html").read_text()
    assert "nearest training clip" not in page
    assert max((one["neighbour"]["told"] for one in record["sounds"]), key=lambda told: told in said) in said
    # What was made before is kept with its neighbours; copies are told of.
    (one,) = Reader(max_sounds=1).generated("out").sounds
    audio.write(here / "copies" / "x" / "a.wav", one, audio.RATE)
    audio.write(here / "copies" / "x" / "b.wav", one.flip(0), audio.RATE)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2000))).float() * 0.1
    for i, x in enumerate(noise):
        audio.write(here / "copies" / "x" / f"noise{i}.wav", x, audio.RATE)
    main([*options, "--n=3", "--neighbours_data=copies"])
    said = capfd.readouterr().out.splitlines()[-1]
    assert said.startswith("perhaps copies: 1 of 3 sounds"), said
    assert "from x/a.wav (x), nearer than 100% of real sounds" in said
    (copied,) = (s["file"] for s in record["sounds"] if torch.equal(audio.read(here / "out" / s["file"])[0], one))
    main([*options[:2], "--out=anew", *options[3:], "--n=3", "--neighbours_data=copies", "--redraw_copies"])
    said = capfd.readouterr().out.splitlines()
    assert said[-2] == "1 sounds that were perhaps copies were made anew"
    assert said[-1].startswith("none of 3 sounds is nearer to copies")
    for sound in record["sounds"]:
        same = (here / "anew" / sound["file"]).read_bytes() == (here / "out" / sound["file"]).read_bytes()
        assert same == (sound["file"] != copied)


def test_neighbours_that_are_not_here_are_refused_before_a_sound_is_made(here, capfd):
    state = torch.load("runs/first/checkpoints/last.ckpt", weights_only=True)
    state["diffwave_sde"]["config"]["data"]["dataset"] = "/gone"
    torch.save(state, "gone.ckpt")
    for arguments, words in (
        (["--ckpt=runs/first", "--neighbours_data=nowhere"], "--neighbours_data unknown dataset 'nowhere'"),
        (["--ckpt=gone.ckpt", "--neighbours"], "are not here (/gone: no such folder"),
    ):
        with pytest.raises(SystemExit):
            main(["sample", "--n=1", "--out=none", *arguments])
        assert words in capfd.readouterr().err.splitlines()[-1]
        assert not list((here / "none").glob("*.wav"))

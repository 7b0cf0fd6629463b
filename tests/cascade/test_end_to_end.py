"""A cascade on the command line: trained, heard, given away, and refused in one line where it will not do."""

import shutil

import pytest
import torch
import yaml
from refusal import refusal

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import kinds, main
from diffwave_sde.demo.studio import Settings, Studio
from diffwave_sde.random import stream

NET = {"channels": [8, 8], "factors": [5], "blocks": 1, "embedding": 8, "heads": 2}
UP = {"class_path": "UNet", "init_args": {"inputs": 2, "told": True, **NET}}
SMALL = {
    "data": {"dataset": "drums", "count": 60, "length": 2000, "batch_size": 4, "workers": 0},
    "model": {
        "base": {"class_path": "UNet", "init_args": NET},
        "middle": UP,
        "top": UP,
        "sampler": {"class_path": "DefaultSampler", "init_args": {"steps": 3}},
        "scheduler": {"class_path": "WarmupDecay", "init_args": {"warmup": 2, "decay": 0}},
    },
    "trainer": {
        "precision": "32-true", "accelerator": "cpu", "devices": 1, "logger": False, "val_check_interval": 2,
        "log_every_n_steps": 2, "max_steps": 2, "callbacks": [{"class_path": "EMA"}, {"class_path": "LastCheckpoint"}],
    },
}  # fmt: skip


def fit(*arguments):
    config = kinds.CONFIGS / "experiment" / "cascade.yaml"
    main(["fit", f"--config={config}", "--config=small.yaml", "--data.root=store", *arguments])


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a run of two steps of all stages, and one of the base alone."""
    folder, patch = tmp_path_factory.mktemp("cascade"), pytest.MonkeyPatch()
    patch.chdir(folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    fit("--name=whole")
    fit("--name=low", "--model.train=[base]")
    yield folder
    patch.undo()


def test_all_stages_are_one_model_that_is_heard_and_given_away(here):
    loaded = checkpoint.load("runs/whole", cascade=True)
    assert loaded.module.steps_trained.tolist() == [2, 2, 2]
    assert loaded.module.lengths(2000) == (100, 500, 2000)
    main(["sample", "--ckpt=runs/whole", "--n=3", "--out=afresh"])
    main(["sample", "--ckpt=runs/whole", "--n=3", "--out=cut", "--cascade.truncated=true", "--cascade.level=0.2"])
    main(["export", "--ckpt=runs/whole", "--out=given", "--dtype=float32"])
    main(["sample", "--ckpt=given", "--n=3", "--out=again"])

    def sounds(name):
        return [path.read_bytes() for path in sorted((here / name).glob("*.wav"))]

    assert len(sounds("afresh")) == 3
    assert sounds("again") == sounds("afresh")
    assert sounds("cut") != sounds("afresh")


def test_stages_are_trained_one_by_one_and_others_stay_as_they_were(here):
    fit("--name=more", "--model.train=[middle,top]", "--model.start=[runs/low]")
    low, more = (checkpoint.load(f"runs/{n}", cascade=True, complete=False).module for n in ("low", "more"))
    assert more.steps_trained.tolist() == [2, 2, 2]
    assert low.missing == ["middle", "top"]
    kept, moved = ([torch.equal(a, b) for a, b in zip(low.stages[k].net.parameters(), more.stages[k].net.parameters(),
                    strict=True)] for k in (0, 1))  # fmt: skip
    assert all(kept)
    assert not all(moved)


def test_a_run_goes_on_without_the_run_that_it_started_from(here):
    shutil.copytree(here / "runs" / "low", here / "runs" / "gone")
    fit("--name=after", "--model.train=[middle]", "--model.start=[runs/gone]")
    shutil.rmtree(here / "runs" / "gone")
    main(["fit", "--ckpt_path=runs/after", "--trainer.max_steps=4"])
    after = checkpoint.load("runs/after", cascade=True, complete=False).module
    assert after.steps_trained.tolist() == [2, 4, 0]


def test_a_sound_is_changed_by_all_stages(here):
    audio.write(here / "kick.wav", 0.3 * torch.randn(4000, generator=stream(7)))
    more = ["--ckpt=runs/whole", "--sampler=DDIM", "--sampler.steps=3"]
    for name, options in {
        "vary": ["--n=2", "--keep=attack"],
        "inpaint": ["--mask=0.01-0.02", "--n=1"],
        "extend": ["--seconds=0.12", "--n=1"],
    }.items():
        main(["edit", name, "kick.wav", f"--out=edits/{name}", *options, *more])
        first, *_ = (audio.decode(path)[0] for path in sorted((here / "edits" / name).glob("000*.wav")))
        assert len(first) == (round(0.12 * 44_100) if name == "extend" else 4000)
        assert bool(first.isfinite().all())
    main(["edit", "interpolate", "kick.wav", "kick.wav", "--space=noise", "--steps=3", "--out=edits/between", *more])


def test_a_kit_and_the_pads_of_the_page_are_made_by_a_cascade(here):
    studio = Studio(checkpoint.load("runs/whole", cascade=True))
    how = Settings(sampler="DDIM", steps=2, seed=1)
    kick, snare = studio.new(["kick", "kick:0.5+snare:0.5"], [0, 1], how)
    for sound in (studio.vary(kick, "kick", 0.4, how), studio.morph(kick, snare, "kick", 0.5, how)):
        assert sound.shape == kick.shape
        assert not torch.equal(sound, kick)
    options = ["--kick=1", "--snare=1", "--cymbal=0", "--layers=2", "--sampler=DDIM", "--sampler.steps=2"]
    main(["kit", "--ckpt=runs/whole", "--out=kit", *options])
    assert list((here / "kit").rglob("*.wav"))
    main(["compare", "runs/whole", "runs/whole", "--n=1", "--out=beside"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--ckpt=runs/low"], "whose stage middle was never trained"),
        (["sample", "--ckpt=runs/whole", "--cascade.level=2"], "the stages learn those from 0.003 to 0.3"),
        (["sample", "--ckpt=drums", "--cascade.level=0.1"], "is no cascade"),
        (
            ["edit", "encode", "afresh/x.wav", "--ckpt=runs/whole"],
            "which cannot do that yet; give a model of one stage",
        ),
        (["edit", "interpolate", "afresh/x.wav", "afresh/y.wav", "--ckpt=runs/whole"], "yet; take --space noise"),
        (["schedule", "--ckpt=runs/whole"], "is of a cascade, which cannot be taken here yet"),
        (["export", "--ckpt=runs/whole", "--out=g", "--format=onnx", "--length=50060"], "choose --length 50080"),
    ],
)
def test_what_a_cascade_cannot_do_is_told_in_one_line(arguments, words, here, capfd):
    for number, name in enumerate("xy"):
        audio.write(here / "afresh" / f"{name}.wav", 0.1 * torch.randn(3000, generator=stream(number)))
    assert words in refusal(arguments, capfd)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.train=[top]", "--model.start=[runs/low]"], "goes by middle, which was never trained"),
        (["--model.train=[middle]", "--model.start=[runs/low]", "--data.length=1000"], "its length is 2000"),
        (["--model.train=[low]"], "no such stage"),
        (["--data.length=1001"], "need a multiple of 20"),
    ],
)
def test_stages_that_are_missing_or_do_not_fit_are_told_in_one_line(options, words, here, capfd):
    config = kinds.CONFIGS / "experiment" / "cascade.yaml"
    arguments = ["fit", f"--config={config}", "--config=small.yaml", "--data.root=store", "--name=no", *options]
    assert words in refusal(arguments, capfd)

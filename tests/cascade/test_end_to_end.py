"""A cascade on the command line: trained, heard, given away, and refused in one line where it will not do."""

import pytest
import torch
import yaml
from refusal import refusal

from diffwave_sde import checkpoint
from diffwave_sde.cli import lightning, main

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
    config = lightning.CONFIGS / "experiment" / "cascade.yaml"
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--ckpt=runs/low"], "whose stage middle was never trained"),
        (["sample", "--ckpt=runs/whole", "--cascade.level=2"], "the stages learn those from 0.003 to 0.3"),
        (["sample", "--ckpt=drums", "--cascade.level=0.1"], "is no cascade"),
        (["edit", "vary", "afresh/x.wav", "--ckpt=runs/whole"], "is of a cascade, which `sample`"),
        (["export", "--ckpt=runs/whole", "--out=g", "--format=onnx"], "a graph holds one network"),
    ],
)
def test_what_a_cascade_cannot_do_is_told_in_one_line(arguments, words, here, capfd):
    (here / "afresh").mkdir(exist_ok=True)
    (here / "afresh" / "x.wav").touch()
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
    config = lightning.CONFIGS / "experiment" / "cascade.yaml"
    arguments = ["fit", f"--config={config}", "--config=small.yaml", "--data.root=store", "--name=no", *options]
    assert words in refusal(arguments, capfd)

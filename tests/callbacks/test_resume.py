"""A checkpoint joined with data: classes by name, rate, length and companding."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

from diffwave_sde.resume import match_data


def told(data, **changes):
    """What a checkpoint of a run on these data says of them."""
    return {"labels": list(data.labels), "rate": data.rate, "length": data.length, "mu": data.mu, **changes}


@pytest.fixture
def run(model, data, trainer, tmp_path):
    """A checkpoint after two steps, whose metadata may say otherwise than the data: (path, trainer)."""

    def make(**changes):
        module, sounds = model(), data()
        sounds.setup()
        module.metadata = told(sounds, **changes)
        first = trainer(max_steps=2)
        first.fit(module, sounds)
        first.save_checkpoint(tmp_path / "two.ckpt")
        return tmp_path / "two.ckpt"

    return make


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_classes_that_moved_are_refused_with_both_lists(verb, run, model, data, trainer):
    path = run(labels=["high", "kick"])
    with pytest.raises(ValueError, match=r"knows the classes high, kick, and the data have high, low: rename"):
        getattr(trainer(max_steps=4), verb)(model(), datamodule=data(), ckpt_path=path)


def test_the_same_classes_in_another_order_take_the_checkpoints_numbers(run, model, data, trainer):
    path = run(labels=["low", "high"])
    sounds = data()
    trainer(max_steps=3).fit(model(), sounds, ckpt_path=path)
    assert sounds.labels == ("low", "high")
    own = data()
    own.setup()
    for loader in ("val_dataloader", "train_dataloader"):
        mine, theirs = next(iter(getattr(own, loader)())), next(iter(getattr(sounds, loader)()))
        assert torch.equal(mine.index, theirs.index)
        assert torch.equal(mine.label, 1 - theirs.label)
    again = pickle.loads(pickle.dumps(sounds.store))  # as a loader's worker has it
    assert again.labels == ("low", "high")
    assert (again.label_ids == sounds.store.label_ids).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 22_050}, "rate = 22050 Hz and the data have 44100 Hz"),
        ({"length": 999}, "length = 999 samples and the data have .* --data.length=999"),
        ({"mu": 255.0}, "mu = 255 and the data have 0: set --data.mu=255"),
        ({"labels": ["a", "b", "c"]}, "knows the classes a, b, c, and the data have a, b: rename"),
    ],
)
def test_other_data_are_refused_in_one_line_unless_it_is_meant(changes, message):
    data = SimpleNamespace(labels=("a", "b"), rate=44_100, length=1000, mu=0.0)
    match_data(told(data), data)
    before = copy.copy(data)
    with pytest.raises(ValueError, match=message):
        match_data(told(data, **changes), data)
    if "labels" not in changes:
        match_data(told(data, **changes), data, changed=changes)
    assert data == before

"""Checkpoints where the disk fails: training goes on, nothing is half-written, and the save is tried again."""

import errno
import os
import resource
import signal

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from diffwave_sde import checkpoint_io
from diffwave_sde.callbacks import EMA, LastCheckpoint
from diffwave_sde.callbacks import last_checkpoint as module_of_last
from diffwave_sde.callbacks.last_checkpoint import SIGNALS


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(checkpoint_io, "PAUSES", (0.0, 0.0))


class Disk(Callback):
    """A limit on the size of files, as a full disk is, between two steps."""

    def __init__(self, full: int, empty: int, size: int = 20_000):
        self.full, self.empty, self.size = full, empty, size

    def on_train_batch_start(self, trainer, module, *_):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if trainer.global_step == self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))
        if trainer.global_step == self.empty:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture
def small_files():
    """The limit goes whatever happens."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_full_disk_costs_no_step_and_the_save_comes_when_there_is_room(
    model, data, trainer, tmp_path, monkeypatch, small_files
):
    monkeypatch.setattr(module_of_last, "RETRY", 0.0)
    folder, seen = tmp_path / "checkpoints", []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            path = folder / "last.ckpt"
            seen.append(torch.load(path, weights_only=True)["global_step"] if path.exists() else None)

    last = LastCheckpoint(every=2, dirpath=str(folder))
    fit = trainer([EMA(), Disk(2, 5), Watch(), last], max_steps=8, enable_checkpointing=True)
    with pytest.warns(UserWarning, match=r"last\.ckpt is not written: File too large"):
        fit.fit(model(), data())
    # Whole checkpoints only: that of step 2 stays until the first step with room.
    assert seen == [None, None, 2, 2, 2, 2, 6, 6]
    assert files(folder) == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 8


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(model, data, trainer, tmp_path, small_files):
    folder = tmp_path / "checkpoints"
    last = LastCheckpoint(every=2, dirpath=str(folder))
    fit = trainer([Disk(3, 100), last], max_steps=5, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="is not written"), pytest.raises(OSError, match="could not be written"):
        fit.fit(model(), data())
    assert files(folder) == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_drive_that_is_away_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    io, tries, replace = checkpoint_io.FiniteCheckpointIO(["w"]), [], os.replace

    def away(*paths):
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        replace(*paths)

    monkeypatch.setattr(os, "replace", away)
    io.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, tmp_path / "a.ckpt")
    assert len(tries) == 2
    assert io.failure is None
    assert files(tmp_path) == ["a.ckpt"]


def test_what_handled_signals_before_a_training_does_so_after_it(model, data, trainer, tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    fit = trainer([LastCheckpoint(dirpath=str(tmp_path / "c"))], max_steps=2, enable_checkpointing=True)
    fit.fit(model(), data())
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_folder_that_vanished_is_made_again(model, data, trainer, tmp_path):
    import shutil

    folder = tmp_path / "checkpoints"

    class Vanish(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            if trainer.global_step == 3:
                shutil.rmtree(folder)

    last = LastCheckpoint(every=2, dirpath=str(folder))
    trainer([Vanish(), last], max_steps=5, enable_checkpointing=True).fit(model(), data())
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize("part", ["state_dict", "current_model_state", "optimizer_states"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_is_not_finite_comes_under_a_final_name(part, number, tmp_path):
    bad = torch.tensor([1.0, number])
    state = {"state_dict": {"w": torch.ones(2)}, "current_model_state": {"w": torch.ones(2)}}
    if part == "optimizer_states":
        state[part] = [{"state": {0: {"exp_avg": bad}}}]
    else:
        state[part] = {"w": bad}
    io = checkpoint_io.FiniteCheckpointIO(["w"])
    with pytest.warns(UserWarning, match="not finite"):
        io.save_checkpoint(state, tmp_path / "a.ckpt")
    assert not files(tmp_path)
    fine = {"state_dict": {"w": torch.full((2,), 3e38), "mask": torch.tensor([-float("inf")])}}
    io.save_checkpoint(fine, tmp_path / "a.ckpt")  # large numbers are finite, and a mask is no weight
    assert files(tmp_path) == ["a.ckpt"]

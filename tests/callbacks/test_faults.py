"""Faults beside the training, each injected: training goes on, says so once, and nothing is half-written."""

import os
import shutil

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from small_run import make_model

from diffwave_sde import checkpoint_io
from diffwave_sde.callbacks import EMA, LastCheckpoint, MetricHistory, SampleLogger, SpikeDetector, Wandb
from diffwave_sde.sounds import run_page

VALIDATING = {"limit_val_batches": 1, "val_check_interval": 2, "log_every_n_steps": 1}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(checkpoint_io, "PAUSES", (0.0,))


class At(Callback):
    """Does something at the start of steps."""

    def __init__(self, **what):
        self.what = {int(step.removeprefix("step")): do for step, do in what.items()}

    def on_train_batch_start(self, trainer, module, *_):
        self.what.pop(trainer.global_step, lambda: None)()


class Always(SpikeDetector):
    def detect(self, values):
        return {"loss": 9.0}


def said(told, text: str) -> int:
    return sum(text in str(one.message) for one in told)


def nothing_half_written(folder) -> bool:
    return not [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".old"))]


def everything(folder, fault):
    """All that writes into a run's folder."""
    checkpoints = str(folder / "checkpoints")
    best = ModelCheckpoint(checkpoints, "best-{step}", monitor="val/loss", save_top_k=1)
    return [
        EMA(), Always(), MetricHistory(), SampleLogger(every=2, count=1), fault, best,
        LastCheckpoint(every=2, dirpath=checkpoints),
    ]  # fmt: skip


def checked(folder) -> None:
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    assert nothing_half_written(folder)
    for file in folder.rglob("*.pt"):
        torch.load(file, weights_only=True)


@pytest.mark.parametrize("fault", ["vanished", "read-only"])
def test_an_output_folder_that_is_away_for_a_while_costs_no_step(fault, model, data, trainer, tmp_path):
    folder = tmp_path / "run"
    if fault == "read-only" and os.geteuid() == 0 and not hasattr(os, "seteuid"):
        pytest.skip("no other user to be")

    def vanish():
        shutil.rmtree(folder)
        folder.write_text("a drive that is not mounted")

    def lock():
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            path.chmod(0o555)
        if os.geteuid() == 0:  # whom no mode binds
            os.seteuid(65534)

    def unlock():
        if os.getuid() == 0:
            os.seteuid(0)
        for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            path.chmod(0o755)

    begin, end = (vanish, folder.unlink) if fault == "vanished" else (lock, unlock)
    logger = CSVLogger(folder, "csv", "0")
    try:
        options = {"logger": logger, "enable_checkpointing": True, "max_steps": 8, **VALIDATING}
        fit = trainer(everything(folder, At(step3=begin, step7=end)), default_root_dir=folder, **options)
        with pytest.warns(UserWarning, match="training goes on") as told:
            fit.fit(model(), data())
    finally:
        if fault == "read-only":
            unlock()
    assert fit.global_step == 8
    checked(folder)
    for what in ("metrics.jsonl failed", "the record of a spike failed", "listening to the model failed"):
        assert said(told, what) == 1, what


def test_a_logger_that_raises_is_told_of_once(model, data, trainer, tmp_path):
    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            raise ConnectionError("the server is on fire")

    fit = trainer([SampleLogger(every=2, count=1)], logger=Broken(tmp_path, "csv", "0"), max_steps=4, **VALIDATING)
    with pytest.warns(UserWarning, match="training goes on") as told:
        fit.fit(model(), data())
    assert fit.global_step == 4
    assert said(told, "logging to Broken failed (ConnectionError: the server is on fire); training goes on") == 1


def test_wandb_that_raises_in_the_middle_is_told_of_once(model, data, trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Wandb(str(tmp_path))

    def fail():
        def raised(*_, **__):
            raise BrokenPipeError("the service has ended")

        monkeypatch.setattr(logger.experiment, "log", raised)

    fit = trainer([At(step2=fail), SampleLogger(every=2, count=1)], logger=logger, max_steps=5, **VALIDATING)
    with pytest.warns(UserWarning, match="training goes on") as told:
        fit.fit(model(), data())
    logger.experiment.finish()
    assert fit.global_step == 5
    assert said(told, "logging to Wandb failed (BrokenPipeError: the service has ended)") == 1


def test_a_page_that_cannot_be_written_is_told_of_once(model, data, trainer, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("planted")

    monkeypatch.setattr(run_page, "write", broken)
    fit = trainer([MetricHistory(), SampleLogger(every=0, count=1)], max_steps=6, **VALIDATING)
    with pytest.warns(UserWarning, match="training goes on") as told:
        fit.fit(model(), data())
    assert fit.global_step == 6
    assert said(told, "writing the run's page failed (KeyError: 'planted')") == 1


def test_the_older_checkpoint_stays_where_the_newer_one_cannot_be_written(tmp_path):
    io = checkpoint_io.FiniteCheckpointIO(["w"])
    io.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="not finite"):
        io.save_checkpoint({"state_dict": {"w": torch.full((2,), torch.nan)}}, tmp_path / "new.ckpt")
    io.remove_checkpoint(tmp_path / "old.ckpt")
    assert (tmp_path / "old.ckpt").exists()
    io.save_checkpoint({"state_dict": {"w": torch.ones(2)}}, tmp_path / "new.ckpt")
    io.remove_checkpoint(tmp_path / "old.ckpt")
    assert not (tmp_path / "old.ckpt").exists()


@pytest.fixture
def own_data(sounds, tmp_path):
    """A datamodule with a store that a test may break."""
    from small_run import make_data

    folder = tmp_path / "own"
    shutil.copytree(sounds / "sounds", folder / "sounds")
    return make_data(folder)


def test_a_store_that_is_deleted_is_read_on(own_data, trainer, tmp_path, data):
    root = tmp_path / "own" / "root"
    module, other = make_model(), make_model()
    trainer([At(step2=lambda: shutil.rmtree(root))], max_steps=5, **VALIDATING).fit(module, own_data)
    assert not root.exists()
    trainer([], max_steps=5, **VALIDATING).fit(other, data())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_a_store_that_is_cut_is_trained_on_as_far_as_it_can_be_read(own_data, trainer):
    seen = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, module, batch, _):
            seen.append((trainer.global_step, batch.index.tolist()))

    store = own_data.store
    (file,) = store.shards.files
    kept = len(store) // 2

    def cut():
        os.truncate(file, kept * store.length * 2)

    fit = trainer([At(step2=cut), Seen()], max_steps=9)
    with pytest.warns(UserWarning, match="training goes on") as told:
        fit.fit(make_model(), own_data)
    assert fit.global_step == 9
    assert said(told, "cannot be read") == 1
    assert all(row < kept for step, rows in seen if step > 3 for row in rows)
    assert any(row >= kept for step, rows in seen if step < 2 for row in rows)
    os.truncate(file, 0)
    with pytest.raises(OSError, match=r"no clip of .* can be read any more"):
        next(iter(own_data.train_dataloader()))

"""Which checkpoint is the best of a run, and what it is called."""

import os

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from diffwave_sde import checkpoint
from diffwave_sde.model import KEY


def test_the_newest_checkpoint_that_knows_of_a_best_one_is_asked(tmp_path):
    def save(name, age, monitor=None, best="", known=True):
        state = {"monitor": monitor, "best_model_path": str(tmp_path / best), "dirpath": str(tmp_path)}
        torch.save({KEY: {}, "callbacks": {"ModelCheckpoint": state} if known else {}}, tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    assert checkpoint.best(tmp_path) is None
    save("best.ckpt", 9, known=False)  # of a program that knew no more than the name
    assert checkpoint.best(tmp_path) == tmp_path / "best.ckpt"
    save("near.ckpt", 8, "val/frechet", "near.ckpt")
    assert checkpoint.best(tmp_path) == tmp_path / "near.ckpt"
    save("a.ckpt", 7, "val/loss", "a.ckpt")
    save("b.ckpt", 5, "val/loss", "b.ckpt")
    save("last.ckpt", 6, "val/loss", "a.ckpt")
    save("near2.ckpt", 3, "val/frechet", "near2.ckpt")
    save("gone.ckpt", 2, "val/loss", "deleted.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:300])
    assert checkpoint.best(tmp_path) == tmp_path / "b.ckpt"


@pytest.mark.parametrize(
    ("filename", "flat"),
    [
        ("best-{val/loss:.3f}", "best-val_loss={val/loss:.3f}"),
        ("{step}-{train/loss/sigma=1e-1}", "step={step}-train_loss_sigma=1e-1={train/loss/sigma=1e-1}"),
        ("mine/best", "mine/best"),
    ],
)
def test_a_name_without_folders_for_a_metric_says_what_lightning_would_have_said(filename, flat):
    assert checkpoint.flat_filename(filename) == flat
    save = ModelCheckpoint(filename=flat, auto_insert_metric_name=False)
    lightning = ModelCheckpoint(filename=filename.replace("l/l", "l_l").replace("n/l", "n_l").replace("s/s", "s_s"))
    names = ("val/loss", "train/loss/sigma=1e-1", "step")
    values = {name: torch.tensor(0.25) for name in names}
    flattened = {name.replace("/", "_"): torch.tensor(0.25) for name in names}
    assert save.format_checkpoint_name(values) == lightning.format_checkpoint_name(flattened)

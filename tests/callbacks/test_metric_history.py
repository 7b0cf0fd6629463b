"""The figures of a run on disk, and the page that is drawn of them, with no logger at all."""

import csv
import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from diffwave_sde import audio
from diffwave_sde.callbacks import EMA, MetricHistory, SampleLogger, SpikeDetector
from diffwave_sde.sounds import history


class Once(SpikeDetector):
    """Takes step 2 for a spike."""

    def detect(self, values):
        self.seen = getattr(self, "seen", -1) + 1
        return {"loss": 9.0} if self.seen == 2 else {}


def fit(model, data, trainer, folder, stop=6, ckpt=None, extra=(), **options):
    save = ModelCheckpoint(folder / "c", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    callbacks = [EMA(), *extra, MetricHistory(), SampleLogger(every=3, count=2), save]
    options = {
        "log_every_n_steps": 1,
        "val_check_interval": 3,
        "limit_val_batches": 1,
        "check_val_every_n_epoch": None,
        **options,
    }
    sounds = data()
    trainer(callbacks, max_steps=stop, enable_checkpointing=True, **options).fit(model(), sounds, ckpt_path=ckpt)
    return sounds


def test_they_are_those_that_a_logger_gets(model, data, trainer, tmp_path):
    fit(model, data, trainer, tmp_path, logger=CSVLogger(tmp_path), extra=[SpikeDetector()])
    found = history.read(tmp_path / history.FILE)
    rows = list(csv.DictReader(next(tmp_path.rglob("metrics.csv")).read_text().splitlines()))
    for name in ("train/loss", "train/grad_norm", "train/lr"):
        logged = {int(row["step"]): float(row[name]) for row in rows if row.get(name)}
        assert dict(zip(found[name].steps, found[name].values, strict=True)) == pytest.approx(logged), name
        assert list(logged) == [0, 1, 2, 3, 4, 5]
    logged = [float(row["val/loss"]) for row in rows if row.get("val/loss")]
    assert found["val/loss"].values == pytest.approx(logged)
    assert found["val/loss"].steps == (3, 6)
    assert any(name.startswith("val/loss/sigma=") for name in found)
    assert all(speed > 0 for speed in found["train/clips_per_second"].values)


def test_a_run_that_goes_on_has_every_step_once_as_if_it_had_never_stopped(model, data, trainer, tmp_path):
    for folder, stops in (("whole", [6]), ("parts", [5, 6])):
        home, ckpt = tmp_path / folder, None
        for stop in stops:
            fit(model, data, trainer, home, stop, ckpt, default_root_dir=home)
            ckpt = home / "c" / "step=4.ckpt"  # older than the stop: step 4 is taken again
    whole, parts = (history.read(tmp_path / folder / history.FILE) for folder in ("whole", "parts"))
    for name in ("train/loss", "train/lr", "val/loss"):
        assert parts[name].steps == whole[name].steps
        assert parts[name].values == pytest.approx(whole[name].values, rel=1e-5)


def test_without_a_logger_the_page_has_figures_and_the_clips_of_a_spike(model, data, trainer, tmp_path):
    sounds = fit(model, data, trainer, tmp_path, extra=[Once()], logger=False)
    page = (tmp_path / "samples" / "index.html").read_text()
    for title in (
        "Loss",
        "Loss by noise level, validation",
        "Gradient norm, before clipping",
        "Speed, clips per second",
    ):
        assert f"<figcaption>{title}</figcaption>" in page
    assert page.count('class="mark" x1=') == 2  # in the losses and in the norms
    folder = tmp_path / "samples" / "spikes" / "step=2"
    told = json.loads((folder / "spike.json").read_text())
    assert told["what"] == "loss 9.0 deviations up"
    record = torch.load(tmp_path / "spikes" / "step=2.pt", weights_only=True)["batches"][0]
    worst = int(record["losses"].argmax())
    clip = audio.from_int16(sounds.store.read([int(record["index"][worst])]))[0]
    written, _ = audio.decode(folder / told["clips"][0]["file"])
    assert torch.equal(written, clip)
    assert record["names"][worst] in told["clips"][0]["told"]
    assert "spikes/step%3D2/" in page

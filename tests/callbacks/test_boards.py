"""TensorBoard and CSV show what W&B shows, as far as they can; both are read back from their files."""

import csv

import numpy as np
import pytest
import soundfile
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from diffwave_sde.callbacks import MetricHistory, SampleLogger, SpikeDetector
from diffwave_sde.sounds import history


class Once(SpikeDetector):
    """Takes step 1 for a spike."""

    def detect(self, values):
        self.values = [*getattr(self, "values", []), values]
        return {"loss": 9.0} if len(self.values) == 2 else {}


def fit(model, data, trainer, logger):
    detector = Once()
    trainer(
        [detector, MetricHistory(), SampleLogger(every=2, count=2)], logger=logger, max_steps=4, log_every_n_steps=1,
        val_check_interval=2, check_val_every_n_epoch=None, limit_val_batches=1,
    ).fit(model(), data())  # fmt: skip
    return detector


def test_tensorboard_holds_sounds_pictures_spikes_and_all_figures(model, data, trainer, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "tensorboard", "")
    detector = fit(model, data, trainer, logger)
    found = EventAccumulator(logger.log_dir, {"audio": 0, "images": 0, "scalars": 0})
    found.Reload()
    tags = found.Tags()
    for name in ("train/loss", "train/grad_norm", "train/clips_per_second", "val/loss", "train/lr"):
        logged = [event.value for event in found.Scalars(name)]
        assert logged == pytest.approx(list(history.read(tmp_path / history.FILE)[name].values), rel=1e-5), name
    assert any(name.startswith("val/loss/sigma=") for name in tags["scalars"])
    assert [event.step for event in found.Audio("samples/00-high")] == [2, 4]
    assert [event.step for event in found.Images("samples/01-low")] == [2, 4]
    wave, rate = soundfile.read(tmp_path / "samples" / "step=4" / "00-high.wav")
    sound = found.Audio("samples/00-high")[1]
    assert (sound.sample_rate, sound.length_frames) == (rate, len(wave))
    (spike,) = found.Scalars("spikes/loss")
    assert (spike.step, spike.value) == (1, pytest.approx(detector.values[1][0]))
    clips = [tag for tag in tags["audio"] if tag.startswith("spikes/")]
    assert len(clips) == 3
    assert [event.step for event in found.Audio(clips[0])] == [1]


def test_a_csv_logger_holds_the_figures_and_a_list_of_the_sounds(model, data, trainer, tmp_path):
    logger = CSVLogger(tmp_path, "csv")
    fit(model, data, trainer, logger)
    folder = tmp_path / "csv" / "version_0"
    rows = list(csv.DictReader((folder / "sounds.csv").read_text().splitlines()))
    kinds = [(row["step"], row["class"]) for row in rows]
    assert kinds == [("2", "high"), ("2", "low"), *[("1", "spike")] * 3, ("4", "high"), ("4", "low")]
    for row in rows:
        assert np.isfinite(soundfile.read(folder / row["file"])[0]).all()
        assert (folder / row["picture"]).is_file()
    figures = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in figures if row["spikes/loss"]] == ["1"]

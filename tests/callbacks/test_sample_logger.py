import random

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from diffwave_sde import audio
from diffwave_sde.callbacks import EMA, MetricHistory, SampleLogger


def steps(path) -> list[str]:
    return sorted(p.name for p in (path / "samples").iterdir())


def wavs(folder) -> dict[str, np.ndarray]:
    return {p.stem: soundfile.read(p)[0] for p in sorted(folder.glob("*.wav"))}


def test_sounds_are_written_every_n_steps_and_at_the_end_class_by_class(model, data, trainer, tmp_path):
    trainer([SampleLogger(every=3, count=3)], max_steps=7).fit(model(), data())
    assert steps(tmp_path) == ["data", "index.html", "step=3", "step=6", "step=7"]
    files = sorted(p.name for p in (tmp_path / "samples" / "step=6").iterdir())
    names = ["00-high", "01-low", "02-high"]
    assert files == [f"{n}.{kind}" for n in names for kind in ("png", "wav")]
    page = (tmp_path / "samples" / "index.html").read_text()
    assert page.index("data/00-high.wav") < page.index("step%3D7/00-high.wav") < page.index("step%3D3/00-high.wav")


def test_the_sounds_are_those_of_the_averaged_weights_from_the_same_noise(model, data, trainer, tmp_path):
    ema, module, sounds = EMA(0.9), model(), data()
    trainer([SampleLogger(every=0, count=3, batch=2), ema], max_steps=5).fit(module, sounds)
    module.eval()  # a finished fit leaves the average in it
    label = torch.tensor([0, 1, 0])
    expected = audio.expand(module.sample(sounds.length, label, module.generators(range(3))), sounds.mu)
    for got, want in zip(wavs(tmp_path / "samples" / "step=5").values(), expected[:, 0], strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_the_data_column_holds_training_clips_of_the_class_of_each_row(model, data, trainer, tmp_path):
    sounds = data()
    trainer([SampleLogger(every=0, count=4)], max_steps=1).fit(model(), sounds)
    rows = sounds.splits["train"]
    for name, clip in wavs(tmp_path / "samples" / "data").items():
        of_class = rows[sounds.store.label_ids[rows] == sounds.labels.index(name[3:])]
        assert any(np.allclose(clip, sounds.store.read([row])[0] / 32768, atol=1e-6) for row in of_class), name


def test_a_run_that_listens_ends_with_the_weights_of_one_that_does_not(model, data, trainer):
    class Noise(Callback):
        """Draws from the global generators, as a module with randomness of its own would."""

        def on_train_batch_end(self, trainer, module, *_):
            draws = torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002
            next(module.denoiser.parameters()).data.add_(sum(draws) * 1e-3)

    def run(*callbacks):
        module = model()
        for seeded in (torch.manual_seed, random.seed, np.random.seed):
            seeded(3)
        ema = EMA(0.9)
        trainer([ema, Noise(), *callbacks], max_steps=5).fit(module, data())
        assert all(m.training for m in module.modules())
        return [*ema._raw, *ema._average_model.module.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(SampleLogger(every=2, count=2)), strict=True))


def test_the_modes_of_the_modules_are_given_back(model, data, trainer):
    class Frozen(Callback):
        def on_train_start(self, trainer, module):
            module.denoiser.net.mix.eval()

    module = model()
    trainer([Frozen(), SampleLogger(every=1, count=1)], max_steps=2).fit(module, data())
    assert not module.denoiser.net.mix.training
    assert module.denoiser.net.stem.training


def test_a_run_that_goes_on_keeps_the_old_columns(model, data, trainer, tmp_path):
    def run(stop, ckpt=None):
        save = ModelCheckpoint(tmp_path / "c", save_last=True)
        logger = SampleLogger(every=4, count=1)
        trainer([EMA(), logger, save], max_steps=stop, enable_checkpointing=True).fit(model(), data(), ckpt_path=ckpt)

    run(4)
    first = tmp_path / "samples" / "step=4" / "00-high.wav"
    made = first.read_bytes()
    run(8, tmp_path / "c" / "last.ckpt")
    assert first.read_bytes() == made  # the checkpoint is older than the sound: it was made again, and is the same
    page = (tmp_path / "samples" / "index.html").read_text()
    assert all(f"step%3D{n}/00-high.wav" in page for n in (4, 8))


def test_an_error_is_told_once_training_goes_on_and_nothing_half_written_is_left(model, data, trainer, tmp_path):
    module = model()
    module.sample = lambda *_, **__: torch.full((1, 1, 1000), torch.nan)
    fit = trainer([SampleLogger(every=2, count=1)])
    with pytest.warns(UserWarning, match="holds NaN") as told:
        fit.fit(module, data())
    assert fit.global_step == 6
    assert sum("listening to the model failed" in str(one.message) for one in told) == 1
    assert not list((tmp_path / "samples").rglob("*step*.wav*"))


def test_a_model_without_classes_is_heard_too(model, data, trainer, tmp_path):
    trainer([SampleLogger(every=0, count=2)], max_steps=1).fit(model(classes=0), data())
    assert list(wavs(tmp_path / "samples" / "step=1")) == ["00", "01"]


def test_a_sound_does_not_depend_on_how_many_are_made(model, data, trainer, tmp_path):
    for count in (1, 5):
        folder = str(tmp_path / str(count))
        trainer([SampleLogger(every=0, count=count, folder=folder)], max_steps=2).fit(model(), data())
    one, five = (wavs(tmp_path / n / "samples" / "step=2")["00-high"] for n in ("1", "5"))
    np.testing.assert_allclose(one, five, atol=1e-5)


def test_a_first_time_comes_early_and_once(model, data, trainer, tmp_path):
    trainer([SampleLogger(every=4, first=2, count=1)], max_steps=7).fit(model(), data())
    assert steps(tmp_path) == ["data", "index.html", "step=2", "step=4", "step=7"]


def test_the_page_has_curves_before_there_are_sounds(model, data, trainer, tmp_path):
    class Look(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 3:
                self.page = (tmp_path / "samples" / "index.html").read_text()

    look = Look()
    callbacks = [MetricHistory(), SampleLogger(every=0, count=1), look]
    trainer(callbacks, max_steps=4, val_check_interval=2, limit_val_batches=1).fit(model(), data())
    assert "<figcaption>Loss</figcaption>" in look.page
    assert "<audio" not in look.page
    assert "<audio" in (tmp_path / "samples" / "index.html").read_text()

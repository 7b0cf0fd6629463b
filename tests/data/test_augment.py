import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from few import LENGTH, data
from lightning.pytorch import LightningModule, Trainer, callbacks

from diffwave_sde import audio
from diffwave_sde.data.augment import _PADDING, Augment, Draw, _lengths, draw, varispeed
from diffwave_sde.data.clips import Clips
from diffwave_sde.data.loader import EpochSampler
from diffwave_sde.data.module import AudioDataModule

T = audio.LENGTH
ON = {"polarity": 0.5, "gain": 6.0, "pitch": 2.0, "decay": 100.0, "shift": 1.0, "mix": 0.5}
HALF = Draw(*[0.5] * len(Draw._fields))


def noise(length: int = T, peak: float = audio.PEAK, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    return x * np.float32(peak) / np.abs(x).max()


def pulse(at: float, hz: float, ms: float, length: int = T) -> np.ndarray:
    """A tone under a bell `ms` wide, `at` ms after the onset: its spectrum ends far below the Nyquist frequency."""
    t = (np.arange(length) - audio.PRE_ROLL) / audio.RATE
    return (0.5 * np.exp(-(((t - at / 1e3) / (ms / 1e3)) ** 2)) * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def frequency(x: np.ndarray) -> float:
    """Hz of the highest line, between the bins by zero-padding."""
    size = 1 << 20
    return np.abs(np.fft.rfft(x * np.hanning(len(x)), size)).argmax() * audio.RATE / size


def decibels(ratio: float) -> float:
    return 20 * math.log10(ratio)


# ------------------------------------------------------------------------------------- what each one does


def test_polarity_1_is_the_exact_negation_and_a_half_takes_half_of_the_clips():
    x = noise()
    assert np.array_equal(Augment(polarity=1)(x, HALF), -x)
    flipped = [Augment(polarity=0.5)(x[:50], draw(0, 0, row))[0] == -x[0] for row in range(2000)]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(("share", "expected"), [(0.0, -9.0), (0.25, -4.5), (0.5, 0.0), (0.9, 7.2)])
def test_gain_is_uniform_in_decibels(share, expected):
    x = noise(peak=0.1)
    y = Augment(gain=9)(x, HALF._replace(gain=share))
    assert decibels(np.linalg.norm(y) / np.linalg.norm(x)) == pytest.approx(expected, abs=1e-4)
    assert np.allclose(y / np.linalg.norm(y), x / np.linalg.norm(x), rtol=0, atol=1e-7)


def test_upward_gain_ends_at_full_scale_and_leaves_the_form():
    x = noise(peak=0.95)
    y = Augment(gain=20)(x, HALF._replace(gain=0.99))
    assert np.abs(y).max() == pytest.approx(1, abs=1e-6)
    assert np.allclose(y, x / 0.95, rtol=0, atol=1e-6)


@pytest.mark.parametrize("semitones", [-12.0, -3.0, -0.1, 0.37, 7.0, 12.0])
def test_pitch_moves_a_sine_by_the_semitones_that_were_asked(semitones):
    x = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(T) / audio.RATE)).astype(np.float32)
    y = Augment(pitch=12)(x, HALF._replace(pitch=(semitones / 12 + 1) / 2))
    # to 2 cents
    assert 12 * math.log2(frequency(y) / 1000) == pytest.approx(semitones, abs=0.02)


@pytest.mark.parametrize("ratio", [0.6, 0.95, 1.003, 1.3])
def test_pitch_changes_time_with_it_and_keeps_the_onset_and_the_level(ratio):
    x = pulse(at=80, hz=3000, ms=8)
    y = varispeed(x, ratio)
    before, after = _lengths(T + _PADDING, ratio)
    r = before / after  # the very ratio, up to 2 cents from what was asked
    assert abs(12 * math.log2(r / ratio)) < 0.02
    assert np.abs(y - pulse(at=80 / r, hz=3000 * r, ms=8 / r)).max() < 1e-6
    click = np.zeros(T, np.float32)
    click[audio.PRE_ROLL] = 0.9
    assert np.abs(varispeed(click, ratio)).argmax() == audio.PRE_ROLL


def test_pitch_leaves_no_hiss_where_the_sound_has_ended():
    x = pulse(at=20, hz=3000, ms=3)
    for ratio in (0.8, 1.2):
        assert np.abs(varispeed(x, ratio)[T // 2 :]).max() < 10 ** (-120 / 20)


def test_a_sound_made_longer_is_faded_where_the_window_cuts_it_and_a_shorter_one_ends_in_silence():
    x = np.full(T, 0.5, np.float32)
    x[:44] = 0
    longer, shorter = varispeed(x, 0.8), varispeed(x, 1.25)
    fade = round(audio.FADE * T)
    ramp = 0.5 * (np.cos(np.pi * np.arange(1, fade + 1) / fade) + 1)
    assert np.allclose(longer[-fade:], 0.5 * ramp, atol=0.01)
    assert longer[-fade - 1] == pytest.approx(0.5, abs=0.01)
    assert longer[-1] == 0
    end = round((T - 44) / 1.25) + 44
    assert shorter[end - 200 : end - 100] == pytest.approx(0.5, abs=0.02)
    assert shorter[end + 100 :] == pytest.approx(0, abs=0.01)
    assert np.all(shorter[-1000:] == 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_decay_falls_by_so_many_decibels_per_second_from_the_onset_on(share):
    x = np.full(T, 0.5, np.float32)
    y = Augment(decay=60)(x, HALF._replace(decay=share))
    assert np.array_equal(y[:45], x[:45])
    for at in (1000, T - 1):
        assert decibels(y[at] / x[at]) == pytest.approx(-60 * share * (at - 44) / 44_100, abs=1e-3)


@pytest.mark.parametrize(("share", "samples"), [(0.0, 0), (0.5, 110), (0.9999, 220)])
def test_shift_moves_the_onset_by_exactly_its_samples(share, samples):
    x = noise()
    y = Augment(shift=5)(x, HALF._replace(shift=share))  # 5 ms are 220.5 samples
    fade = round(audio.FADE * T) if samples else 0
    assert np.all(y[:samples] == 0)
    assert np.array_equal(y[samples : T - fade], x[: T - fade - samples])
    assert not samples or (y[-1] == 0 and np.abs(y[-20:]).max() < 1e-3)


def test_a_shift_that_loses_nothing_is_a_plain_delay():
    x = noise()
    x[-1000:] = 0
    y = Augment(shift=5)(x, HALF)
    assert np.array_equal(y[110:], x[:-110])


def test_every_whole_number_of_samples_up_to_the_shift_is_as_likely():
    x = np.zeros(LENGTH, np.float32)
    x[44] = 1
    found = [int(Augment(shift=0.1)(x, draw(0, 0, row)).argmax()) - 44 for row in range(3000)]
    assert np.bincount(found) / 3000 == pytest.approx(0.2, abs=0.03)  # 0 to 4


def test_mix_adds_the_other_clip_and_keeps_to_the_clip_s_own_peak():
    x, other = noise(peak=0.1, seed=1), noise(peak=0.9, seed=2)
    y = Augment(mix=1)(x, HALF._replace(ratio=0.25), other)
    whole = x + 0.25 * other
    assert np.allclose(y, whole * (0.1 / np.abs(whole).max()), atol=1e-7)
    assert np.abs(y).max() == pytest.approx(0.1, rel=1e-6)
    quiet = Augment(mix=1)(other, HALF._replace(ratio=0.5), -other)
    assert np.allclose(quiet, 0.5 * other, atol=1e-7)  # what cancels is not made loud again


def test_the_operations_come_in_the_order_that_is_stated():
    x, other = noise(seed=1), noise(seed=2)
    drawn = Draw(0.1, 0.2, 0.9, 0.2, 0.7, 0.8, 0.3, 0.1)
    y, order = x, ("mix", "pitch", "decay", "shift", "gain", "polarity")
    for name in order:
        y = Augment(**{name: ON[name]})(y, drawn, other if name == "mix" else None)
    assert np.array_equal(Augment(**ON)(x, drawn, other), y)
    z = x
    for name in reversed(order):
        z = Augment(**{name: ON[name]})(z, drawn, other if name == "mix" else None)
    assert not np.allclose(y, z, atol=1e-3)


def test_nothing_leaves_full_scale():
    strong = Augment(polarity=0.5, gain=40, pitch=12, decay=30, shift=20, mix=1)
    square = np.where(np.arange(T) // 50 % 2, 1.0, -1.0).astype(np.float32)  # what a resampling overshoots
    most = 0.0
    for row in range(60):
        for x, other in ((square, noise(peak=1)), (noise(peak=1, seed=row), square)):
            y = strong(x, draw(1, 0, row), other)
            assert y.shape == (T,)
            assert y.dtype == np.float32
            most = max(most, float(np.abs(y).max()))
    assert most == 1
    assert all(np.abs(Augment(pitch=12)(square, draw(1, 0, row))).max() <= 1 for row in range(20))


def test_silence_stays_silence():
    silence, all_on = np.zeros(T, np.float32), Augment(**ON)
    for row in range(20):
        assert not all_on(silence, draw(0, 0, row), noise()).any()


def test_what_is_off_leaves_the_very_clip():
    x = noise()
    assert np.array_equal(Augment()(x, HALF), x)


# ------------------------------------------------------------------------------------------------ chance


def test_numbers_depend_on_seed_pass_and_row_alone():
    assert draw(3, 1, 2) == draw(3, 1, 2)
    others = [draw(*key) for key in ((3, 1, 3), (3, 2, 2), (4, 1, 2), (2, 3, 1), (3, 12, 2), (31, 2, 2))]
    assert len({draw(3, 1, 2), *others}) == 7
    numbers = np.array([draw(0, row % 7, row) for row in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean(0) == pytest.approx(0.5, abs=0.02)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.06


def test_turning_an_operation_on_leaves_what_the_others_do():
    x = noise(peak=0.1)
    for row in range(5):
        one = Augment(gain=6)(x, draw(0, 0, row))
        two = Augment(gain=6, polarity=0.5)(x, draw(0, 0, row))
        assert np.array_equal(np.abs(one), np.abs(two))


# ------------------------------------------------------------------------------------------ classes and splits


def tagged(rows: np.ndarray, **options) -> Clips:
    """A store of 30 clips in 3 classes, each of which is one click: its place is its row."""
    clips = np.zeros((30, LENGTH), np.int16)
    clips[np.arange(30), 100 + np.arange(30)] = 16_384
    store = SimpleNamespace(
        read=lambda rows: clips[np.asarray(rows)],
        hold=lambda: None,
        label_ids=np.arange(30) % 3,
        length=LENGTH,
        paired=False,
    )
    return Clips(store, rows, 0.0, Augment(**options))


def test_only_training_clips_of_the_same_class_are_mixed_in_and_never_the_clip_itself():
    train = np.array([0, 1, 2, 3, 4, 5, 7, 9, 12, 29])
    clips = tagged(train, mix=1)
    seen: dict[int, set[int]] = {int(row): set() for row in train}
    for turn in range(60):
        batch = clips.__getitems__([turn * len(train) + place for place in range(len(train))])
        for x, row in zip(batch.audio[:, 0], batch.index.tolist(), strict=True):
            assert x[100 + row] == 0.5
            seen[row] |= {int(k) - 100 for k in x.nonzero().flatten()} - {row}
    assert seen == {row: {int(k) for k in train if k % 3 == row % 3 and k != row} for row in seen}


def test_a_partner_is_any_of_the_others_with_the_same_chance():
    rows = np.array([3, 8, 11, 20])
    found = [Augment(mix=1).partner(draw(0, turn, 8), 8, rows) for turn in range(3000)]
    assert set(found) == {3, 11, 20}
    assert [found.count(row) / 3000 for row in (3, 11, 20)] == pytest.approx([1 / 3] * 3, abs=0.04)


def test_a_class_of_one_clip_is_not_mixed():
    (x,) = tagged(np.array([1, 3, 6]), mix=1).__getitems__([0]).audio[:, 0]
    assert x.count_nonzero() == 1


def test_mix_is_the_share_of_clips_that_are_mixed():
    clips = tagged(np.arange(30), mix=0.3)
    batches = [clips.__getitems__(list(range(turn * 30, turn * 30 + 30))).audio[:, 0] for turn in range(60)]
    assert np.mean([(x != 0).sum(1).numpy() > 1 for x in batches]) == pytest.approx(0.3, abs=0.04)


# ------------------------------------------------------------------------------------------------ batches


def moving(root, **options) -> AudioDataModule:
    """The data module with everything turned on, not companded."""
    return data(root, **({"mu": 0.0, "augment": Augment(**ON)} | options))


def epochs(it: AudioDataModule, count: int) -> list:
    """The batches of the first epochs."""
    loader = it.train_dataloader()
    return [list(loader) for _ in range(count)]


def same(one, two) -> bool:
    assert one.context is two.context is None
    return all(torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True))


def by_row(batches) -> dict[int, torch.Tensor]:
    return {int(row): x for batch in batches for x, row in zip(batch.audio, batch.index, strict=True)}


def test_a_batch_keeps_its_rows_and_labels_and_its_clips_are_varied(root):
    plain, varied = (epochs(moving(root, augment=augment), 1)[0] for augment in (None, Augment(**ON)))
    for a, b in zip(plain, varied, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.label, b.label)
        assert a.audio.shape == b.audio.shape
        assert b.audio.dtype == torch.float32
        assert not (a.audio == b.audio).flatten(1).all(1).any()
        assert b.audio.abs().max() <= 1


def test_an_augmentation_that_is_off_is_the_unaugmented_batch(root):
    for a, b in zip(*(epochs(moving(root, augment=augment), 1)[0] for augment in (None, Augment())), strict=True):
        assert same(a, b)


def test_companding_comes_last(root):
    for a, b in zip(*(epochs(moving(root, mu=mu), 1)[0] for mu in (0.0, 255.0)), strict=True):
        assert (audio.compress(a.audio.double()) - b.audio).abs().max() < 1e-6


def test_another_epoch_varies_otherwise_and_the_same_one_alike(root):
    (first, second), (again,) = epochs(moving(root), 2), epochs(moving(root), 1)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    a, b = by_row(first), by_row(second)
    assert a.keys() & b.keys()
    assert not any(torch.equal(a[row], b[row]) for row in a.keys() & b.keys())


def test_workers_do_not_change_a_batch(root):
    alone, helped = (epochs(moving(root, workers=workers), 2) for workers in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert all(same(one, two) for one, two in zip(a, b, strict=True))


def test_what_a_clip_becomes_does_not_depend_on_its_batch_or_its_rank(root):
    whole = by_row(epochs(moving(root), 2)[1])
    other = by_row(epochs(moving(root, batch_size=7), 2)[1])
    assert len(whole.keys() & other.keys()) > 20
    assert all(torch.equal(whole[row], other[row]) for row in whole.keys() & other.keys())
    it = moving(root)
    clips = it.train_dataloader().dataset
    for rank in range(3):
        sampler = EpochSampler(clips, 4, it.seed, 3, rank, numbered=True)
        sampler.epoch = 1
        for row, x in by_row([clips.__getitems__(list(sampler))]).items():
            assert row not in whole or torch.equal(x, whole[row])


def test_a_clip_repeated_to_fill_a_batch_is_another_each_time(root):
    ((batch,), (later,)) = epochs(moving(root, batch_size=100), 2)
    both = torch.cat([batch.audio, later.audio])[:, 0]
    assert len(set(batch.index.tolist())) < 50
    assert len({x.numpy().tobytes() for x in both}) == 200


def test_without_augmentation_an_index_is_a_place(root):
    assert all(
        0 <= k < len(moving(root).splits["train"]) for k in moving(root, augment=None).train_dataloader().sampler
    )


def test_validation_and_test_clips_and_what_is_measured_on_the_data_are_left_alone(root):
    plain, varied = moving(root, augment=None), moving(root)
    for one, two in (
        (plain.val_dataloader(), varied.val_dataloader()),
        (plain.test_dataloader(), varied.test_dataloader()),
    ):
        assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert (plain.sigma_data, plain.diameter) == (varied.sigma_data, varied.diameter)


# --------------------------------------------------------------------------------- stopped, and gone on with


class Recorder(LightningModule):
    """Keeps the clips that it is trained on, and those that it is validated on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return (self.weight * batch.audio).mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(root, folder, ckpt=None, every=None, workers=0, **options) -> Recorder:
    module = Recorder()
    saver = [callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every)] if every else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=saver, enable_checkpointing=bool(saver), default_root_dir=folder, max_epochs=-1, **options,
        )  # fmt: skip
        trainer.fit(module, moving(root, workers=workers), ckpt_path=ckpt, weights_only=False)
    return module


@pytest.mark.parametrize(("stop", "workers"), [(5, 0), (15, 2)])
def test_a_run_stopped_in_mid_epoch_goes_on_with_the_very_batches_it_would_have_had(root, tmp_path, stop, workers):
    per_epoch = len(moving(root).splits["train"]) // 4
    whole = run(root, tmp_path / "a", max_steps=20)
    assert stop % per_epoch
    run(root, tmp_path / "b", every=stop, workers=workers, max_steps=stop)
    rest = run(root, tmp_path / "b", ckpt=str(tmp_path / "b" / f"step={stop}.ckpt"), workers=workers, max_steps=20)
    assert len(rest.seen) == 20 - stop
    assert all(same(a, b) for a, b in zip(whole.seen[stop:], rest.seen, strict=True))
    untouched = by_row(moving(root, augment=None).val_dataloader())
    assert all(torch.equal(x, untouched[row]) for row, x in by_row(whole.validated).items())
    assert whole.validated


def test_overfitting_on_one_batch_is_left_to_lightning(root, tmp_path):
    seen = run(root, tmp_path, overfit_batches=1, max_steps=3).seen
    assert all(same(seen[0], batch) for batch in seen)


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(("name", "value"), [
    ("polarity", 1.1), ("polarity", -0.1), ("gain", -1.0), ("gain", 61.0), ("pitch", 12.1), ("pitch", math.nan),
    ("decay", -1.0), ("decay", math.inf), ("shift", -1.0), ("shift", 101.0), ("mix", 2.0),
])  # fmt: skip
def test_an_option_out_of_range_is_one_line_that_names_it_and_the_remedy(name, value):
    for make in (lambda: Augment(**{name: value}), lambda: AudioDataModule(augment={name: value})):
        with pytest.raises(ValueError, match=rf"data\.augment\.{name} must lie .*{value}; 0 turns it off") as caught:
            make()
        assert "\n" not in str(caught.value)


def test_a_shift_that_leaves_too_little_of_a_short_clip_is_refused():
    with pytest.raises(ValueError, match=r"data\.augment\.shift of 10.* 5\.7 is the most"):
        AudioDataModule(length=500, augment=Augment(shift=10))


def test_a_configuration_s_plain_options_are_taken():
    assert AudioDataModule(augment={"pitch": 2}).augment == Augment(pitch=2)
    assert AudioDataModule().augment is None


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], None),
    (["--data.augment=Augment", "--data.augment.polarity=0.5"], Augment(polarity=0.5)),
    (["--data.augment.pitch=2"], Augment(pitch=2)),
    (["--data.augment.pitch=2", "--data.augment=null"], None),
])  # fmt: skip
def test_the_command_line_makes_it(arguments, expected):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AudioDataModule, "data")
    assert parser.instantiate_classes(parser.parse_args(arguments)).data.augment == expected

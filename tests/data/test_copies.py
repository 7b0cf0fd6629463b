"""Near copies go together in the split; different sounds do not."""

from functools import cache

import numpy as np
import pytest
import soundfile
import torch

from diffwave_sde import audio
from diffwave_sde.data import builtin, items
from diffwave_sde.data.build import prepare
from diffwave_sde.data.copies import NEIGHBOURS, TABLES, correlation, envelope, find_copies
from diffwave_sde.data.module import AudioDataModule

PAIRS = 60
LENGTH = 8_000


@cache
def sounds(kind: str | None, count: int) -> list[np.ndarray]:
    """Built-in drums with a little silence before them, float32."""
    step = 1 if kind is None else 3
    first = 0 if kind is None else builtin.VOICES["drums"].index(kind)
    made = (builtin.render("drums", first + step * k, 5, seconds=0.3).samples for k in range(count))
    return [np.concatenate([np.zeros(150, np.float32), x]) for x in made]


def window(x: np.ndarray) -> np.ndarray:
    return items.pack(audio.window(torch.from_numpy(np.asarray(x, np.float32)), LENGTH))


def found(clips):
    return find_copies(np.array([envelope(clip, audio.RATE) for clip in clips]), clips.__getitem__, audio.RATE)


def noise(x: np.ndarray, level: float) -> np.ndarray:
    return np.random.default_rng(len(x)).normal(0, level, len(x))


VARIANTS = {
    "6 dB softer": lambda x: x / 2,
    "30 dB softer": lambda x: x / 32,
    "upside down": lambda x: -x,
    "later by 5 ms": lambda x: np.concatenate([np.zeros(220), x]),
    "earlier by 2 ms": lambda x: x[88:],
    "dithered to 10 bits": lambda x: np.rint(x * 512 + np.random.default_rng(1).uniform(-0.5, 0.5, len(x))) / 512,
    "with noise 30 dB below it": lambda x: x + noise(x, 10**-1.5 * np.sqrt(np.mean(x**2))),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sound_and_its_near_copy_fall_on_one_side_of_the_split(tmp_path, variant):
    for k, x in enumerate(sounds(None, PAIRS)):
        for folder, y in (("own", x), ("copy", VARIANTS[variant](x))):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "in" / folder / f"{k}.wav", y, audio.RATE, "PCM_16")
    store = prepare(str(tmp_path / "in"), tmp_path, LENGTH, workers=0, progress=False)
    data = AudioDataModule(str(tmp_path / "in"), str(tmp_path), LENGTH, workers=0, validation=0.25, test=0.25)
    side = {row: name for name, rows in data.splits.items() for row in rows.tolist()}
    rows: dict[str, list[int]] = {}
    for line in store.manifest():
        rows.setdefault(line["file"].rpartition("/")[2], []).append(int(line["row"]))
        assert store.copies[int(line["row"])] == int(line["copy_of"] or line["row"])
    assert [len(pair) for pair in rows.values()] == [2] * PAIRS
    assert sum(side[a] != side[b] for a, b in rows.values()) == 0
    # joined as pairs, not all as one
    assert len(set(store.copies)) == len(set(store.groups)) == PAIRS
    assert set(side.values()) == {"train", "validation", "test"}


def test_different_sounds_of_one_class_are_not_joined():
    clips = [window(x) for x in sounds("kick", 200)]
    assert len(set(found(clips).group)) == len(clips)


def test_what_sounds_alike_and_is_no_copy_is_not_joined():
    """Two strokes of white noise through one decay: their spectra in bands are alike, their waves are not."""
    decay = np.exp(-np.arange(7_000) / 900)
    strokes = [window(0.5 * decay * np.random.default_rng(k).normal(0, 0.2, 7_000)) for k in range(40)]
    assert len(set(found(strokes).group)) == 40


@pytest.mark.parametrize("alike", [False, True])
def test_the_comparisons_grow_with_the_number_of_clips_and_not_with_its_square(alike):
    def clips(count: int) -> list[np.ndarray]:
        # all near copies of one sound, or all close in their spectra and no copies: the worst that there is
        rng = np.random.default_rng(0)
        decay = np.exp(-np.arange(900) / 200)
        one = rng.normal(0, 3_000, 900)
        return [
            (decay * (one + rng.normal(0, 30, 900) if alike else rng.normal(0, 3_000, 900))).astype(np.int16)
            for _ in range(count)
        ]

    def comparisons(count: int) -> int:
        waves = clips(count)
        flat = np.zeros((count, 32), np.float32)  # one bucket for all
        result = find_copies(flat, waves.__getitem__, audio.RATE)
        assert len(set(result.group)) == (1 if alike else count)
        return result.comparisons

    few, many = comparisons(40), comparisons(160)
    assert 0 < few < many <= 160 * TABLES * NEIGHBOURS
    assert many < 4.5 * few


def test_a_copy_that_is_half_a_sample_late_is_found_between_the_samples():
    spectrum = torch.fft.rfft(torch.randn(4_000, generator=torch.Generator().manual_seed(0)))
    spectrum[1_500:] = 0  # to 16.5 kHz, as it is after resampling
    half = torch.exp(-0.5j * 2 * torch.pi * torch.arange(len(spectrum)) / 4_000)
    x, late = torch.fft.irfft(spectrum), torch.fft.irfft(spectrum * half)
    assert float(torch.dot(x, late) / x.norm() / late.norm()) < 0.85
    assert correlation(x.numpy(), late.numpy(), audio.RATE) > 0.999


def test_kits_that_share_a_sound_go_together_and_it_is_told(tmp_path, capsys):
    made = sounds(None, 12)
    for k, x in enumerate(made):
        folder = tmp_path / "in" / "ABCD"[k // 3] / "hit"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{k}.wav", x, audio.RATE)
    soundfile.write(tmp_path / "in" / "C" / "hit" / "again.wav", -0.3 * made[0], audio.RATE)
    store = prepare(str(tmp_path / "in"), tmp_path, LENGTH, group_by="folder", workers=0)
    kits = {line["group"]: group for line, group in zip(store.manifest(), store.groups, strict=True)}
    assert kits == {"A": "A", "B": "B", "C": "A", "D": "D"}
    told = "in: 2 clips are near copies of each other, in 1 group of up to 2"
    assert told in capsys.readouterr().err
    # again when the store is there already, as `fit` opens it
    AudioDataModule(str(tmp_path / "in"), str(tmp_path), LENGTH).prepare_data()
    assert told in capsys.readouterr().err
    for k in range(1, 4):
        soundfile.write(tmp_path / "in" / "ABCD"[k] / "hit" / "same.wav", made[1], audio.RATE)
    with pytest.raises(ValueError, match=r"the 4 kits of in hold near copies of each other's sounds.*null"):
        prepare(str(tmp_path / "in"), tmp_path, LENGTH, group_by="folder", workers=0, progress=False)


def test_files_that_are_added_move_no_others(tmp_path):
    for k, x in enumerate(sounds(None, 40)):
        (tmp_path / "in").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "in" / f"{k}.wav", x, audio.RATE)
        if k == 19:
            first = prepare(str(tmp_path / "in"), tmp_path, LENGTH, workers=0, progress=False)
    second = prepare(str(tmp_path / "in"), tmp_path, LENGTH, workers=0, progress=False)
    assert set(first.groups) <= set(second.groups)


def test_built_in_sounds_are_compared_with_none(tmp_path):
    """They are drawn apart, and 100,000 of them would be compared for an hour."""
    store = prepare("drums", tmp_path, 500, count=6, progress=False)
    assert store.copies.tolist() == list(range(6))
    assert items.Rendered("drums", 0, 0).load(500).envelope == []

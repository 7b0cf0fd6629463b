"""Pairs as data: what the built-in arrangements play, and that nothing comes between a context and its part."""

import numpy as np
import pytest
import torch

from diffwave_sde import audio
from diffwave_sde.data import pairs
from diffwave_sde.data.augment import Augment
from diffwave_sde.data.module import AudioDataModule


def module(tmp_path, dataset="bass", **options):
    options = {"length": 12_000, "rate": 11_025, "mu": 0, "count": 12, "workers": 0, "batch_size": 4, **options}
    return AudioDataModule(str(dataset), str(tmp_path / "root"), **options)


def test_the_bass_plays_the_roots_when_the_kick_does():
    keys = set()
    for index in range(150):
        score = pairs.score(index, 0, 3.0)
        assert 80 <= score.parameters["tempo_bpm"] <= 160
        keys.add(score.parameters["key"])
        assert [note.start for note in score.bass] == pytest.approx(score.kicks)
        if pairs.bass.BACKING[int(score.parameters["backing_index"])] == "pluck":
            continue
        for note in score.bass:
            begun = max(one.start for one in score.chords if one.start <= note.start + 1e-6)
            lowest = min(one.midi for one in score.chords if abs(one.start - begun) < 1e-6)
            assert (note.midi - lowest) % 12 == 0
    assert len(keys) == 12


def test_an_arrangement_is_a_pure_function_of_its_number_and_seed():
    one, again, other = (pairs.render(4, seed, 11_025, 12_000) for seed in (0, 0, 1))
    for a, b, c in zip(one[:2], again[:2], other[:2], strict=True):
        assert a.tobytes() == b.tobytes()
        assert a.tobytes() != c.tobytes()
    assert np.abs(one[0] + one[1]).max() <= 0.9 + 1e-9


def test_a_batch_holds_each_part_and_its_context_as_they_were_rendered(tmp_path):
    data = module(tmp_path)
    assert data.rate == 11_025
    assert data.labels == pairs.VOICES
    batch = next(iter(data.train_dataloader()))
    files = [line["file"] for line in data.store.manifest()]
    for part, context, row in zip(batch.audio, batch.context, batch.index.tolist(), strict=True):
        index = int(files[row].rpartition("/")[2])
        for got, rendered in zip((context, part), pairs.render(index, 0, 11_025, 12_000)[:2], strict=True):
            assert np.abs(got[0].numpy() - rendered).max() <= 0.5 / 32768 + 1e-7
    assert data.contexts(3).shape == (3, 1, 12_000)


def songs(folder, rate=8_000, seconds=(3.2, 4.0, 2.4)):
    """Three songs of noise, whose part is half its mix, a moment later."""
    for number, length in enumerate(seconds):
        mix = 0.5 * torch.randn(round(length * rate), generator=torch.Generator().manual_seed(number))
        mix[: rate // 4] = 0  # silence that a one-shot would lose
        audio.write(folder / f"song {number}" / "mix.wav", mix.clamp(-1, 1), rate)
        audio.write(folder / f"song {number}" / "part.wav", mix.clamp(-1, 1) / 2, rate)


def test_stems_of_ones_own_stay_aligned_and_songs_together(tmp_path):
    songs(tmp_path / "mine")
    audio.write(tmp_path / "mine" / "alone" / "part.wav", torch.ones(100) / 2, 8_000)
    data = module(tmp_path, tmp_path / "mine", rate=8_000, length=4_000)
    assert len(data.store) == 6 + 8 + 4
    assert [file for file, _ in data.store.refused()] == ["alone/part.wav"]
    for rows in data.splits.values():
        assert len(rows)
    songs_of = {name: set(data.store.groups[rows]) for name, rows in data.splits.items()}
    assert not songs_of["train"] & songs_of["test"]
    whole = data.store.read_whole(range(len(data.store))).astype(int)
    assert np.abs(whole[:, :4_000] / 2 - whole[:, 4_000:]).max() <= 1
    first = [row for row, line in enumerate(data.store.manifest()) if line["file"].endswith("part.wav#0")]
    assert (whole[first, :2_000] == 0).all()
    assert (whole[first, 2_000:4_000] != 0).any()


def stems(folder, names=("drums", "bass", "other"), rate=8_000):
    """Songs of stems, in two classes, and the sum of all beside them."""
    for number in range(4):
        g, home = torch.Generator().manual_seed(number), folder / ("funk" if number % 2 else "rock") / f"song {number}"
        waves = {name: 0.1 * torch.randn(2 * rate, generator=g) for name in names}
        for name, wave in waves.items():
            audio.write(home / f"{name}.wav", wave, rate)
        audio.write(home / "mixture.wav", sum(waves.values()), rate)


def test_of_stems_one_is_the_part_and_the_sum_of_the_others_its_context(tmp_path):
    stems(tmp_path / "mine")
    audio.write(tmp_path / "mine" / "rock" / "unfinished" / "drums.wav", torch.ones(100) / 2, 8_000)
    data = module(tmp_path, tmp_path / "mine", rate=8_000, length=4_000, part="Bass")
    assert data.labels == ("funk", "rock")
    assert len(data.store) == 4 * 4
    left_out = [file for file, _ in data.store.refused()]
    assert left_out == ["funk/song 1/mixture.wav", "funk/song 3/mixture.wav", "rock/song 0/mixture.wav",
                        "rock/song 2/mixture.wav", "rock/unfinished/drums.wav"]  # fmt: skip
    lines = [line for line in data.store.manifest() if line["row"]]
    whole = audio.from_int16(data.store.read_whole(range(16)))
    for line, row in zip(lines, whole, strict=True):
        song, _, number = line["file"].rpartition("#")
        read = {
            n: audio.decode((tmp_path / "mine" / song).with_name(f"{n}.wav"))[0] for n in ("drums", "bass", "other")
        }
        cut = slice(int(number) * 4_000, (int(number) + 1) * 4_000)
        assert (row[:4_000] - (read["drums"] + read["other"])[cut]).abs().max() < 1e-4
        assert (row[4_000:] - read["bass"][cut]).abs().max() < 1e-4
    other = module(tmp_path, tmp_path / "mine", rate=8_000, length=4_000, part="drums")
    assert not torch.equal(audio.from_int16(other.store.read(range(16))), whole[:, 4_000:])


def test_a_part_that_no_song_has_is_refused(tmp_path):
    stems(tmp_path / "mine", ("bass",))
    for part in ("bass", "vocals"):  # a part with nothing beside it but the sum, and none
        with pytest.raises(ValueError, match=rf"data.part = {part}: no folder in .* with other stems"):
            module(tmp_path, tmp_path / "mine", part=part).prepare_data()
    with pytest.raises(ValueError, match=r"data.part = vocals: of a folder of stems, .* not of drums"):
        module(tmp_path, "drums", part="vocals").prepare_data()


def test_what_would_tear_pairs_apart_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave it null"):
        module(tmp_path, augment=Augment()).setup()
    with pytest.raises(ValueError, match="train on it alone"):
        module(tmp_path, "bass + drums").prepare_data()
    with pytest.raises(ValueError, match="pairs and loops alone have a rate"):
        module(tmp_path, "drums").prepare_data()

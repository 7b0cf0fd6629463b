"""What is told of a hit and done to it: order, keys, rate, ends, levels; and what a kit's folder keeps."""

import json
import math

import pytest
import torch

from diffwave_sde import audio
from diffwave_sde.kits import hits, keys
from diffwave_sde.kits.folder import KitFolder, packed
from diffwave_sde.kits.making import titles
from diffwave_sde.kits.mastering import Mastering, amplified

RATE = 44_100


def ring(hz: float, fall: float, level: float = 1.0) -> torch.Tensor:
    """A tone that falls by 60 dB in `fall` seconds."""
    t = torch.arange(RATE) / RATE
    return level * torch.sin(2 * math.pi * hz * t) * 10 ** (-3 * t / fall)


def test_brightness_and_decay_of_a_tone_that_decays_are_its_own():
    assert hits.decay(ring(2000, 0.4), RATE) == pytest.approx(0.2, abs=0.002)
    spectrum = torch.fft.rfft(torch.randn(RATE, generator=torch.Generator().manual_seed(0)))
    assert hits.brightness(torch.fft.irfft(spectrum), RATE) == pytest.approx(RATE / 4, rel=0.01)
    silence = torch.zeros(10)
    assert (hits.level(silence), hits.brightness(silence, RATE), hits.decay(silence, RATE)) == (-120, 0, 0)


def test_a_harder_hit_is_louder_and_brighter():
    soft, loud, bright = ring(500, 0.5, 0.2), ring(500, 0.5, 0.4), ring(900, 0.5, 0.41)
    assert hits.softest_first([bright, soft, loud], RATE) == [1, 2, 0]


def test_keys_are_those_of_general_midi_and_hats_are_the_short_cymbals():
    cymbals = [keys.Hit("cymbal", decay, 8000) for decay in (0.4, 0.1, 0.5, 0.3, 0.2)]
    found = keys.assign([keys.Hit("kick", 0.1, 500), *cymbals, keys.Hit("snare", 0.1, 3000)])
    assert [key.note for key in found] == [36, 51, 42, 49, 46, 44, 38]
    assert [key.part for key in found[1:6]] == ["", "closed hat", "", "open hat", "pedal hat"]
    assert [key.choke for key in found[1:6]] == [None, 1, None, 1, 1]
    toms = keys.assign([keys.Hit("tom", 0.2, hz) for hz in (900, 300, 600)])
    assert [key.note for key in toms] == [50, 41, 45]
    told = keys.assign([keys.Hit(name, 0.3, 1) for name in ("Open Hat", "closed hihat", "crash", "bass", "hand claps")])
    assert [key.note for key in told] == [46, 42, 49, 37, 39]
    # A second closed hat still chokes, and where hats are named no other cymbal is taken for one.
    hats = [keys.Hit("closed hat", 0.1, 1), keys.Hit("closed hat", 0.1, 1), keys.Hit("cymbal", 0.1, 1)]
    assert [(key.note, key.choke) for key in keys.assign(hats)] == [(42, 1), (88, 1), (49, None)]


def test_no_key_is_given_twice_and_too_many_are_refused():
    many = [keys.Hit("kick", 0.1, 500)] * 40 + [keys.Hit("cymbal", 0.1 * i, 500) for i in range(12)]
    notes = [key.note for key in keys.assign(many)]
    assert len(set(notes)) == len(notes)
    assert notes[:3] == [36, 35, 88]
    with pytest.raises(ValueError, match="70 instruments are more than there are keys"):
        keys.assign([keys.Hit("kick", 0.1, 500)] * 70)
    assert (keys.name_of_note(60), keys.name_of_note(36), keys.name_of_note(0)) == ("C4", "C2", "C-1")


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_sound_keeps_its_pitch_and_loses_what_cannot_be_heard_at_its_end(rate):
    x = torch.cat([ring(1000, 0.2)[:8000], torch.zeros(8000)])
    y = Mastering(rate=rate).prepared(x, RATE)
    assert len(y) / rate == pytest.approx(8000 / RATE, abs=0.004)
    assert y[-1] == 0
    n = 1 << 14
    assert float(torch.fft.rfft(y[:4000], n).abs().argmax()) * rate / n == pytest.approx(1000, abs=5)
    assert len(Mastering().prepared(torch.zeros(100), RATE)) > 0


@pytest.mark.parametrize(
    ("levels", "peaks"), [("kit", [-13.0, -1.0]), ("instrument", [-1.0, -1.0]), ("none", [-8.0, 4.0])]
)
def test_one_gain_keeps_the_balance_and_nothing_clips(levels, peaks):
    def sound(decibels: float) -> torch.Tensor:
        return torch.tensor([0.1, 10 ** (decibels / 20)])

    instruments = [[sound(-8), sound(-20)], [sound(4)]]
    gains = Mastering(levels=levels, peak=-1.0).gains(instruments)
    found = [
        20 * math.log10(float(amplified(one[0], gain).max())) for one, gain in zip(instruments, gains, strict=True)
    ]
    assert found == pytest.approx(peaks, abs=1e-4)
    assert Mastering(levels=levels).gains([[torch.zeros(3)]]) == [0.0]


def test_names_are_fit_for_files_and_told_apart():
    names = ["kick", "Kick", "kick:0.7+snare:0.3", "a/b\\c$", "..", "大太鼓", "KICK"]
    assert titles(names) == ["Kick", "Kick (b)", "Kick 0.7 Snare 0.3", "A B C", "Sound", "大太鼓", "KICK (c)"]


def test_a_folder_keeps_what_is_not_its_own_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    home = tmp_path / "kit"
    folder = KitFolder(home, {"seed": 1})
    folder.begin()
    assert folder.write({"Samples/a.wav": b"a", "kit.sfz": b"1", "../kit.zip": b"z"}, {}) == (3, 0)
    assert KitFolder(home, {"seed": 1}).write({"Samples/a.wav": b"a", "kit.sfz": b"2"}, {}) == (1, 1)
    assert (home / "kit.sfz").read_bytes() == b"2"
    assert not (tmp_path / "kit.zip").exists()  # which was its own, and is no more of it
    with pytest.raises(ValueError, match=r"another seed \(1, not 2\): choose another --out"):
        KitFolder(home, {"seed": 2})
    (home / "Samples" / "a.wav").write_bytes(b"edited")
    (home / "Samples" / "b.wav").write_bytes(b"mine")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=f"{name}.wav is not of this kit, or was changed since"):
            KitFolder(home, {"seed": 1}).write({f"Samples/{name}.wav": b"new", "kit.sfz": b"3"}, {})
    assert (home / "kit.sfz").read_bytes() == b"2"
    # Edited, and no longer of the kit: it stays. Stopped between two files: what is there is known again.
    written = []

    def stopped(path, data):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        with open(path, "wb") as file:
            file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", stopped)
        with pytest.raises(KeyboardInterrupt):
            KitFolder(home, {"seed": 1}).write({"Samples/c.wav": b"c", "kit.sfz": b"4"}, {})
    assert KitFolder(home, {"seed": 1}).write({"Samples/c.wav": b"c", "kit.sfz": b"4"}, {})[0] >= 1
    assert (home / "Samples" / "a.wav").read_bytes() == b"edited"
    assert set(json.loads((home / "kit.json").read_text())["files"]) == {"Samples/c.wav", "kit.sfz"}
    (home / "kit.json").write_text("{}")
    with pytest.raises(ValueError, match=r"kit\.json is of no kit"):
        KitFolder(home, {"seed": 1})


def test_a_record_of_somebody_elses_removes_nothing_outside(tmp_path):
    folder = KitFolder(tmp_path / "kit", {})
    folder.begin()
    for name in ("../other.zip", "../../far.wav", "Samples/../../up.wav"):
        (tmp_path / "kit" / "Samples").mkdir(exist_ok=True)
        folder.write({name: b"x"}, {})  # so that it is in the record
        folder.write({}, {})
        assert (tmp_path / "kit" / name).read_bytes() == b"x"
        (tmp_path / "kit" / name).unlink()


def test_the_same_files_are_the_same_archive():
    files = {"Samples/a.wav": audio.encode(torch.zeros(10)), "kit.sfz": b"x"}
    assert packed("kit", files) == packed("kit", dict(files))

"""The doctor finds what was done to sounds, and leaves sounds alone that nothing was done to."""

import csv
from types import SimpleNamespace

import pytest
import torch
from refusal import refusal
from truth import Mixture, Oracle

from diffwave_sde import audio, checkpoint
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.cli import main
from diffwave_sde.collection import doctor
from diffwave_sde.data.items import Rendered
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.sde import EDM
from diffwave_sde.sounds import page

DRUMS = [audio.from_int16(Rendered("drums", i, 3).load(audio.LENGTH).window) for i in range(24)]
CYMBALS = [
    audio.from_int16(clip.window)
    for clip in (Rendered("drums", i, 4).load(audio.LENGTH) for i in range(60))
    if clip.label == "cymbal"
][:10]


def spoilt(x, how):
    return {
        "clipped": lambda: (3 * x).clamp(-0.9, 0.9),
        "coarse": lambda: (x * 127).round() / 128,
        "low-passed": lambda: audio.resample(audio.resample(x, 44_100, 22_050), 22_050),
        "several hits": lambda: torch.cat((x[:9000] * torch.linspace(1, 0, 9000), x)),
    }[how]()


def told(x):
    several = doctor.hits(x, audio.RATE)
    return {
        "clipped": doctor.clipped(x),
        "coarse": doctor.coarse(x),
        "low-passed": doctor.low_passed(x, audio.RATE),
        "several hits": several if several > 1 else None,
    }


def test_sounds_that_nothing_was_done_to_are_left_alone():
    synth = [audio.from_int16(Rendered("synth", i, 3).load(audio.LENGTH).window) for i in range(24)]
    assert [kind for x in DRUMS + synth for kind, found in told(x).items() if found] == []


@pytest.mark.parametrize(("how", "share"), [("clipped", 0.8), ("coarse", 1.0), ("several hits", 0.8)])
def test_what_was_done_is_found(how, share):
    assert sum(told(spoilt(x, how))[how] is not None for x in DRUMS) >= share * len(DRUMS)


def test_a_lower_rate_is_found_where_there_was_something_above_it():
    found = [doctor.low_passed(spoilt(x, "low-passed"), audio.RATE) for x in CYMBALS]
    assert sum(one is not None for one in found) >= 8, found
    khz = [float(one.split()[2]) for one in found if one]
    assert all(8.5 < f < 12 for f in khz), khz


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty-odd tones of each of two classes, and what is wrong with some."""
    home = tmp_path_factory.mktemp("sounds")
    t = torch.arange(6000) / audio.RATE
    g = torch.Generator().manual_seed(0)
    for label, low in (("bass", 60.0), ("bell", 2000.0)):
        for i in range(22):
            pitch = low * (1 + float(torch.rand(1, generator=g)))
            own = 0.2 * torch.randn(6000, generator=g)  # by which no two are alike
            x = ((6.28 * pitch * t).sin() + own) * (-t * (20 + 20 * float(torch.rand(1, generator=g)))).exp() * 0.5
            audio.write(home / label / f"{i:02d}.wav", x, subtype="PCM_16")
    audio.write(home / "bell" / "wrong.wav", (6.28 * 70 * t).sin() * (-t * 30).exp() * 0.8, subtype="PCM_16")
    again = audio.read(home / "bass" / "03.wav")[0]
    audio.write(home / "bass" / "copy.wav", 0.5 * again, subtype="PCM_24")
    audio.write(home / "bass" / "nothing.wav", torch.zeros(6000), subtype="PCM_16")
    audio.write(home / "rare" / "one.wav", (6.28 * 500 * t).sin() * (-t * 30).exp() * 0.8, subtype="PCM_16")
    return home


def test_the_whole_from_the_command_line_to_a_training_without_the_suspects(folder, tmp_path, capsys):
    out = tmp_path / "out"
    main(["doctor", str(folder), "--length=4000", f"--out={out}"])
    with open(out / "findings.csv", newline="", encoding="utf-8") as file:
        found = {(line["file"], line["kind"]): line["told"] for line in csv.DictReader(file)}
    assert found.pop(("bell/wrong.wav", "label")) == "sounds more like bass than bell"
    copy = next(key for key in found if key[1] == "copy")
    assert {copy[0], found.pop(copy).removeprefix("near copy of ")} == {"bass/03.wav", "bass/copy.wav"}
    assert found.pop(("bass/nothing.wav", "silent")).startswith("silent")
    assert found.pop(("rare", "imbalance")).startswith("1 sounds")
    assert not found, "and nothing else"
    assert "2 suspects of 47 files" in capsys.readouterr().out
    assert "bell/wrong.wav" in (out / "index.html").read_text(encoding="utf-8")

    def files(**options):
        data = AudioDataModule(str(folder), str(tmp_path / "root"), 4000, workers=0, **options)
        return {line["file"] for line in data.store.manifest() if line["row"]}

    assert files() - files(exclude=str(out / "exclude.txt")) == {"bell/wrong.wav", copy[0]}


@pytest.fixture
def expecting_noise(monkeypatch):
    """A model that knows how loud noise is, and nothing else; the calls of its network are counted."""
    denoiser = Oracle(EDM(sigma_min=2e-4), Mixture(stds=(0.25,)))
    denoiser.sigma_data = torch.tensor(0.25)
    model = LoadedModel(SimpleNamespace(denoiser=denoiser), ("a",), audio.RATE, 2000, 0.0, 1, checkpoint.find("drums"))
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: model)
    monkeypatch.setattr(page, "spectrogram_png", lambda *_: None)
    return denoiser


def test_a_model_names_the_outliers_and_is_not_asked_twice(expecting_noise, tmp_path, capsys):
    home, out, g = tmp_path / "sounds", tmp_path / "out", torch.Generator().manual_seed(3)
    for i in range(14):
        audio.write(home / "a" / f"{i}.wav", 0.2 * torch.randn(2000, generator=g).clamp(-4, 4), subtype="PCM_16")
    # Simple for FLAC, and loud all along: many bits for one who expects noise.
    tone = 0.8 * (6.28 * 440 * torch.arange(2000) / audio.RATE).sin()
    audio.write(home / "a" / "tone.wav", tone, subtype="PCM_16")
    asked = ["doctor", str(home), "--ckpt=drums", f"--out={out}", "--device=cpu"]
    main([*asked, "--length=2000"])
    with open(out / "findings.csv", newline="", encoding="utf-8") as file:
        found = [(line["file"], line["told"]) for line in csv.DictReader(file) if line["kind"] == "outlier"]
    assert [name for name, _ in found] == ["a/tone.wav"]
    assert found[0][1].startswith("more bits than its complexity explains (")
    assert "a/tone.wav" in (out / "exclude.txt").read_text().splitlines()
    assert "Outlier (1)" in (out / "index.html").read_text()
    calls = expecting_noise.calls
    main([*asked, "--length=2000", "--threshold=1e6"])
    assert expecting_noise.calls == calls  # what is known of a sound is kept
    assert "nothing wrong with 15 files" in capsys.readouterr().out
    assert "hears windows of 2000 samples; give --length that" in refusal([*asked, "--length=4000"], capsys)


def test_bad_lists_and_bad_options_are_told_in_one_line(folder, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    listed.write_text("none.wav\n")
    prepare = ["prepare", f"--data.dataset={folder}", f"--data.root={tmp_path}"]
    assert "has no file none.wav" in refusal([*prepare, f"--data.exclude={listed}"], capsys)
    assert "no list of files" in refusal([*prepare, f"--data.exclude={tmp_path}/absent.txt"], capsys)
    assert "--shown 0" in refusal(["doctor", str(folder), "--shown=0"], capsys)

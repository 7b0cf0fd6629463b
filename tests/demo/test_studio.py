"""What a pad may be asked for, without a server: held to the command line and to what must not change."""

import io
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import main
from diffwave_sde.data import kits as readers
from diffwave_sde.demo import uploads
from diffwave_sde.demo.jobs import Result, Worker
from diffwave_sde.demo.start import starting_kit
from diffwave_sde.demo.studio import Settings, Studio
from diffwave_sde.demo.takeaway import Pad, kit_zip
from diffwave_sde.samplers import DDIM

HOW = Settings(sampler="DDIM", steps=3, guidance=1.5, seed=5)


@pytest.fixture(scope="module")
def studio():
    return Studio(checkpoint.load("drums"))


@pytest.fixture(scope="module")
def kick_and_snare(studio):
    return studio.new(["kick", "snare"], [0, 1], HOW)


def test_a_pad_is_the_sound_that_the_command_line_makes_with_its_settings(studio, tmp_path):
    label = "kick:0.7+snare:0.3"
    options = ["--seed=5", "--sampler=DDIM", "--sampler.steps=3", "--guidance.weight=1.5", "--device=cpu"]
    main(["sample", "--ckpt=drums", "--n=4", f"--label={label}", f"--out={tmp_path}", *options])
    there = torch.stack([audio.decode(file)[0] for file in sorted(tmp_path.glob("*.wav"))])
    here = torch.stack(studio.new([label, label], [3, 1], HOW))
    assert len(there) == 4
    assert torch.allclose(here, there[[3, 1]], atol=1e-4)
    assert not torch.allclose(here, there[[1, 3]], atol=1e-2)


def test_the_models_own_settings_are_those_of_the_command_line(studio, tmp_path):
    main(["sample", "--ckpt=drums", "--n=1", "--label=snare", "--seed=9", f"--out={tmp_path}", "--device=cpu"])
    there = audio.decode(next(tmp_path.glob("*.wav")))[0]
    assert torch.allclose(studio.new(["snare"], [0], Settings(seed=9))[0], there, atol=1e-4)


def test_what_lies_outside_of_a_region_stays_bit_for_bit(studio, kick_and_snare):
    x = kick_and_snare[0]
    made = studio.inpaint(x, "kick", (0.1, 0.2), HOW)
    changed = (made != x).nonzero().flatten() / 44100
    assert 0.1 <= float(changed.min()) < 0.105
    assert 0.195 < float(changed.max()) < 0.2
    with pytest.raises(ValueError, match=r"0\.4 to 0\.9 s: choose a part of the 0\.476 s"):
        studio.inpaint(x, "kick", (0.4, 0.9), HOW)


def test_a_stronger_variation_is_further_away(studio, kick_and_snare):
    x = kick_and_snare[0]
    far = [float((studio.vary(x, "kick", strength, HOW) - x).square().mean()) for strength in (0.0, 0.1, 0.9)]
    assert 0 == far[0] < far[1] < far[2]


def test_a_morph_goes_from_one_sound_to_the_other(studio, kick_and_snare):
    a, b = kick_and_snare
    assert torch.equal(studio.morph(a, b, "kick", 0.0, HOW), a)
    assert torch.equal(studio.morph(a, b, "kick", 1.0, HOW), b)
    early, late = (studio.morph(a, b, "kick", share, HOW) for share in (0.2, 0.8))
    assert (early - a).norm() < (late - a).norm()
    assert (late - b).norm() < (early - b).norm()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(sampler="Nothing"), "no sampler Nothing here: choose one of DefaultSampler"),
        (Settings(steps=100_000), "100000 steps: choose 1 to 200"),
        (Settings(guidance=-1.0), "weight"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(studio, settings, said):
    with pytest.raises(ValueError, match=said):
        studio.new(["kick"], [0], settings)


def a_file(x, rate=44_100, container="WAV", subtype="PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=container, subtype=subtype)
    return file.getvalue()


CLICK = 0.5 * np.exp(-np.arange(3_000) / 500) * np.sin(np.arange(3_000) / 20)


def two_gigabytes() -> bytes:
    data = bytearray(a_file(CLICK))
    at = data.index(b"data") + 4
    data[at : at + 4] = (2 * 10**9).to_bytes(4, "little")
    return bytes(data)


BAD = {
    "text": (lambda: b"this is not a sound at all\n" * 40, "not readable as audio .*Drop a WAV"),
    "nothing": (lambda: b"", "empty: no bytes"),
    "a header that promises 2 GB": (two_gigabytes, "truncated: the header promises more than the file holds"),
    "an hour": (lambda: a_file(np.repeat(np.int16([9, 0]), [9, 3600 * 4000]), 4000, "FLAC"), "longer than 60 s"),
    "silence": (lambda: a_file(np.zeros(4_000)), "holds only silence"),
    "no numbers": (lambda: a_file(np.full(4_000, np.nan, np.float32), subtype="FLOAT"), "NaN or infinite"),
    "too many bytes": (lambda: bytes(uploads.MOST_BYTES + 1), "larger than 32 MB"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_refused_in_words(case):
    make, said = BAD[case]
    with pytest.raises(ValueError, match=said) as refusal:
        uploads.read(make(), "mine.wav", 21_000, 44_100)
    assert str(refusal.value).startswith("mine.wav: ")
    assert "/tmp" not in str(refusal.value)


def test_a_good_file_is_taken_from_its_onset_at_full_level():
    late = np.concatenate((np.zeros(30_000), CLICK))
    window = uploads.read(a_file(late), "late.wav", 21_000, 44_100)
    assert len(window) == 21_000
    assert float(window.abs().max()) == pytest.approx(audio.PEAK, rel=1e-3)
    assert int(window.abs().argmax()) < 1_000


def test_the_kit_is_read_back_by_the_readers_of_its_formats(kick_and_snare, tmp_path):
    pads = [Pad("kick", kick_and_snare[0]), Pad("kick", kick_and_snare[1]), Pad("snare", kick_and_snare[1] * 0.5)]
    data = kit_zip(pads, 44_100, "../My/kit", 48_000)
    assert data == kit_zip(pads, 44_100, "../My/kit", 48_000)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert not [name for name in names if ".." in Path(name).parts or name.startswith("/")]
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    wavs = sorted(file.name for file in (folder / "Samples").iterdir())
    assert wavs == ["Kick 1.wav", "Kick 2.wav", "Snare 1.wav"]
    for name in wavs:
        found = soundfile.info(folder / "Samples" / name)
        assert (found.samplerate, found.subtype, found.channels) == (48_000, "PCM_24", 1)
    peaks = [float(audio.decode(folder / "Samples" / name)[0].abs().max()) for name in wavs]
    assert peaks[2] == pytest.approx(peaks[1] / 2, rel=1e-3)  # one gain for all
    assert {one.file for one in readers.sfz(next(folder.glob("*.sfz")))} == {f"Samples/{name}" for name in wavs}
    with tarfile.open(next(folder.glob("*.h2drumkit"))) as hydrogen:
        assert {Path(name).name for name in hydrogen.getnames()} == {"drumkit.xml", *wavs}
    assert "Kick 1.wav" in next(folder.glob("*.dspreset")).read_text(encoding="utf-8")


def test_the_python_of_the_page_of_the_documentation_runs():
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    made: dict = {}
    exec(compile(code, "demo.md", "exec"), made)
    assert made["between"].shape == made["near"].shape == made["kick"].shape == (21_000,)


def test_a_job_that_nobody_waits_for_ends_at_its_next_step():
    worker, ended, count = Worker(), threading.Event(), [0]

    def work(progress):
        try:
            for count[0] in range(10**6):
                progress(count[0], 10**6)
        finally:
            ended.set()

    steps = worker.steps(work)
    next(steps), next(steps)
    steps.close()
    assert ended.wait(5)
    assert count[0] < 10**6 - 1
    assert [step.value for step in worker.steps(lambda progress: 7) if isinstance(step, Result)] == [7]
    with pytest.raises(ZeroDivisionError):
        list(worker.steps(lambda progress: 1 / 0))
    worker.close()


def test_the_first_kit_is_kept_for_the_next_start(studio, tmp_path, monkeypatch):
    model = studio.model
    sampler = DDIM(steps=2)
    first = starting_kit(Studio(model, sampler), 3, 16, cache=tmp_path)
    calls = []
    new = Studio.new
    monkeypatch.setattr(Studio, "new", lambda self, *args: calls.append(1) or new(self, *args))
    again = starting_kit(Studio(model, sampler), 3, 8, cache=tmp_path)
    assert not calls
    assert all(torch.equal(a, b) for a, b in zip(first.sounds, again.sounds, strict=True))
    assert first.labels == again.labels
    # What they follow from, and a file that is none, make them anew.
    starting_kit(Studio(model, sampler), 4, 16, cache=tmp_path)
    starting_kit(Studio(model, DDIM(steps=2, eta=0.5)), 3, 16, cache=tmp_path)
    assert len(calls) == 2
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    starting_kit(Studio(model, sampler), 3, 16, cache=tmp_path)
    assert len(calls) == 3
    (tmp_path / "file").write_text("no folder")
    assert len(starting_kit(Studio(model, sampler), 3, 16, cache=tmp_path / "file").sounds) == 16

"""A track's windows, and what `sample --audio` makes of any file."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from paired_run import LENGTH, RATE
from refusal import refusal

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import main
from diffwave_sde.samplers import DDIM
from diffwave_sde.track import Track


@pytest.mark.parametrize("joined", ["projection", "crossfade"])
@pytest.mark.parametrize("samples", [1, 900, 1_000, 1_001, 1_876, 5_000])
def test_parts_are_as_long_as_the_track_whatever_its_length(samples, joined):
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    track = Track(wave, 1_000, joined=joined)
    windows = track.windows()
    assert windows.shape == (track.count, 1_000)
    for i, window in enumerate(windows):
        there = wave[i * track.hop : i * track.hop + 1_000]
        assert torch.equal(window[: len(there)], there)
        assert not window[len(there) :].any()
    whole = track.join(windows)
    assert whole.shape == (samples,)
    if joined == "projection":  # windows that agree are joined as they are
        torch.testing.assert_close(whole, wave)


def test_seams_keep_the_level_of_independent_parts_and_do_not_click():
    track = Track(torch.zeros(8_875), 1_000, joined="crossfade")
    noise = torch.randn(2_000, track.count, 1_000, generator=torch.Generator().manual_seed(0))
    power = torch.stack([track.join(one) for one in noise[:, :3]])[:, :2_750].square().mean(0)
    assert (power - 1).abs().max() < 6 * (2 / 2_000) ** 0.5
    tones = torch.stack([(0.05 * torch.arange(1_000) + phase).sin() for phase in torch.rand(track.count) * 6])
    assert track.join(tones).diff().abs().max() < 1.5 * 0.05 + 1.5 / 125


def made(run, tmp_path, wave, rate, *options):
    """The parts for a file, as `sample --audio` makes them."""
    audio.write(tmp_path / "track.wav", wave, rate)
    main([
        "sample", "--ckpt", str(run), "--audio", str(tmp_path / "track.wav"), "--n", "2", "--out",
        str(tmp_path / "out"), "--sampler", "DDIM", "--sampler.steps", "2", "--device", "cpu", *options,
    ])  # fmt: skip
    listed = json.loads((tmp_path / "out" / "sounds.json").read_text())
    return listed, [audio.decode(tmp_path / "out" / one["file"]) for one in listed["sounds"]]


@pytest.mark.parametrize("seconds", [0.1, 1.3])
@pytest.mark.parametrize("rate", [8_000, 22_050])
def test_parts_go_with_a_track_of_any_length_and_rate(run, tmp_path, seconds, rate, capsys):
    wave = 0.3 * torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(7))
    listed, parts = made(run, tmp_path, wave, rate)
    context, here = audio.decode(tmp_path / "out" / listed["context"])
    assert here == RATE
    for sound, (part, rate_made) in zip(listed["sounds"], parts, strict=True):
        assert rate_made == RATE
        assert len(part) == len(context) == pytest.approx(seconds * RATE, abs=2)
        mix = audio.decode(tmp_path / "out" / sound["mix"])[0]
        torch.testing.assert_close(mix, context + part, atol=1e-6, rtol=0)
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(f">{title}<" in page for title in ("context", "part", "mix"))


def test_a_silent_track_is_told_and_gives_what_no_track_gives(run, tmp_path, capsys):
    _, parts = made(run, tmp_path, torch.zeros(LENGTH), RATE)
    assert "is silent" in capsys.readouterr().out
    main([
        "sample", "--ckpt", str(run), "--n", "2", "--out", str(tmp_path / "free"), "--sampler", "DDIM",
        "--sampler.steps", "2", "--device", "cpu",
    ])  # fmt: skip
    free = json.loads((tmp_path / "free" / "sounds.json").read_text())["sounds"]
    for (part, _), one in zip(parts, free, strict=True):
        torch.testing.assert_close(part, audio.decode(tmp_path / "free" / one["file"])[0], atol=1e-5, rtol=0)


def opposite(rate):
    x = 0.3 * torch.randn(rate // 4, generator=torch.Generator().manual_seed(2))
    return torch.stack((x, -x))


def several(rate):
    return 0.3 * torch.randn(8, rate // 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("wave", "rate", "samples", "expected"),
    [
        (lambda rate: torch.tensor([0.5]), RATE, 1, lambda x: x),
        (several, RATE, RATE // 4, lambda x: x.mean(0)),
        (several, 96_000, RATE // 4, None),
        (several, 8_000, RATE // 4, lambda x: x.mean(0)),
        (opposite, RATE, RATE // 4, lambda x: x[0]),
    ],
    ids=["one sample", "8 channels", "96 kHz", "8 kHz", "opposite phase"],
)
def test_a_track_of_any_rate_length_and_number_of_channels_is_one_mono_waveform(
    tmp_path, wave, rate, samples, expected
):
    x = wave(rate)
    audio.write(tmp_path / "track.wav", x, rate)
    track = Track.read(tmp_path / "track.wav", RATE, LENGTH)
    assert track.waveform.shape == (samples,)
    assert track.windows().shape == (track.count, LENGTH)
    if expected is not None:
        torch.testing.assert_close(track.waveform, expected(x))
    told = [f"{tmp_path / 'track.wav'}: its channels cancel in the mix; the loudest of them is heard alone"]
    assert track.remarks == (told if wave is opposite else [])


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty: no bytes"), (b"not a sound at all", "not readable as audio"), (math.nan, "NaN")],
    ids=["empty", "text", "NaN"],
)
def test_a_file_that_is_no_track_is_refused_in_one_line(run, tmp_path, content, says, capsys):
    path = tmp_path / "track.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        wave = np.full(100, 0.1, np.float32)
        wave[50] = content
        soundfile.write(path, wave, RATE, subtype="FLOAT")
    said = refusal(["sample", "--ckpt", str(run), "--device", "cpu", "--audio", str(path)], capsys)
    assert says in said
    assert "track.wav" in said


def test_a_context_in_python_is_mono_and_finite_and_one_may_serve_all(run):
    module = checkpoint.load(run).module
    sampler = DDIM(2)

    def sample(context):
        return module.sample(LENGTH, torch.zeros(2).long(), module.generators(range(2), 0), sampler, audio=context)

    for context in (torch.zeros(2, 2, 50), torch.zeros(3, 1, 50), torch.zeros(2, 50), torch.full((2, 1, 50), math.nan)):
        with pytest.raises(ValueError, match=r"what 2 sounds go with is \(2, 1, T'\), mono"):
            sample(context)
    noise = 0.3 * torch.randn(1, 1, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(noise), sample(noise.expand(2, 1, -1)))
    assert not torch.equal(sample(noise), sample(None))
    assert torch.equal(sample(torch.zeros(2, 1, 50)), sample(None))


def test_a_graph_of_a_model_that_goes_by_a_context_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "--ckpt", str(run), "--out", str(tmp_path / "graph"), "--format", "program"])
    assert "hears no context" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ckpt", "drums", "--audio", "TRACK"], "trained without contexts"),
        (["--ckpt", "RUN", "--audio", "missing.wav"], "missing.wav"),
        (["--ckpt", "RUN", "--audio", "TRACK", "--length", "100"], "as long as the track"),
    ],
)
def test_what_cannot_be_gone_with_is_refused_in_one_line(run, tmp_path, options, says, capsys):
    audio.write(tmp_path / "track.wav", torch.ones(100) / 2, RATE)
    named = {"TRACK": str(tmp_path / "track.wav"), "RUN": str(run)}
    with pytest.raises(SystemExit) as stopped:
        main(["sample", "--device", "cpu", "--out", str(tmp_path / "o"), *(named.get(one, one) for one in options)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "\n" not in said


def test_the_commands_of_the_page_run(run, tmp_path, monkeypatch):
    root = Path.cwd()
    page = (root / "docs" / "conditioning.md").read_text(encoding="utf-8")
    commands = re.findall(r"^diffwave-sde (.*)$", page, re.MULTILINE)
    verbs = [command.split()[0] for command in commands]
    assert verbs == ["fit", "sample", "sample", "edit", "evaluate", "demo", "fit", "fit"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(root / "configs")
    (tmp_path / "songs").symlink_to(run.parent / "songs")
    audio.write(tmp_path / "track.wav", 0.3 * torch.ones(3_000).sin(), RATE)
    audio.write(tmp_path / "part.wav", 0.3 * torch.arange(3_000).sin(), RATE)
    for song, stem in ((song, stem) for song in ("a/1", "a/2", "b/3") for stem in ("bass", "drums", "other")):
        wave = 0.1 * torch.randn(6_000, generator=torch.Generator().manual_seed(len(stem)))
        audio.write(tmp_path / "stems" / song / f"{stem}.wav", wave, RATE)
    small = [
        "--data.length=1200", "--data.workers=0", "--data.batch_size=2", "--model.net.init_args.channels=[8,8,8]",
        "--model.net.init_args.embedding=16", "--trainer.max_steps=1", "--trainer.val_check_interval=1",
        "--trainer.logger=false", "--trainer.accelerator=cpu", "--model.sampler.steps=2", "--data.count=20",
        "--data.validation=0.2", "--data.test=0.2",
    ]  # fmt: skip
    for command in commands:
        words = shlex.split(command)
        few = ["--device=cpu", "--sampler=DDIM", "--sampler.steps=2"]
        few += ["--embedding=log-mel", "--resamples=2"] if words[0] == "evaluate" else []
        if words[0] != "demo":  # which runs until it is stopped; tests/demo
            main(words + (small if words[0] == "fit" else few))
    for name in ("mine", "stems"):
        assert (tmp_path / "runs" / name / "checkpoints" / "last.ckpt").is_file()
    [found] = (tmp_path / "runs" / "bass").glob("evaluation/*/evaluation.json")
    assert json.loads(found.read_text())["agreement"]["asked"] == "score"
    [listed] = (tmp_path / "runs" / "bass" / "sounds").glob("*/sounds.json")
    assert [sound["label"] for sound in json.loads(listed.read_text())["sounds"]] == ["sub"] * 4

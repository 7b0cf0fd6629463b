"""`edit --audio`: a sound is changed as a part of its track, at the place where the window lies in it."""

import json

import pytest
import torch
from paired_run import LENGTH, RATE
from refusal import refusal

from diffwave_sde import audio, checkpoint
from diffwave_sde.cli import main
from diffwave_sde.collection import clips
from diffwave_sde.editing import Editor
from diffwave_sde.samplers import DDIM


def noise(samples, seed):
    return (0.3 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A part as long as a window, a longer one, and two tracks, one of them at another rate."""
    home = tmp_path_factory.mktemp("edit")
    audio.write(home / "part.wav", noise(LENGTH, 1), RATE)
    audio.write(home / "other.wav", noise(LENGTH, 2), RATE)
    audio.write(home / "long.wav", noise(3 * LENGTH, 3), RATE)
    audio.write(home / "track.wav", noise(8 * LENGTH, 4), 2 * RATE)
    audio.write(home / "quiet.wav", torch.zeros(LENGTH), RATE)
    return home


def edit(run, out, operation, *argv):
    main([
        "edit", operation, *map(str, argv), "--ckpt", str(run), "--out", str(out), "--device", "cpu", "--sampler",
        "DDIM", "--sampler.steps", "3",
    ])  # fmt: skip
    return [audio.decode(out / one["file"])[0] for one in json.loads((out / "edit.json").read_text())["results"]]


OPERATIONS = {
    "vary": ["--n", "1", "--strength", "0.7"],
    "inpaint": ["--n", "1", "--mask", "0.05-0.1"],
    "extend": ["--n", "1", "--seconds", "0.6"],
    "restore": ["--n", "1", "--task", "bandwidth", "--cutoff", "1000"],
    "interpolate": ["--steps", "3", "--space", "noise"],
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_goes_with_the_track_and_again(run, files, tmp_path, operation):
    given = [files / "part.wav"] + [files / "other.wav"] * (operation == "interpolate")
    options = [*given, *OPERATIONS[operation]]
    went = edit(run, tmp_path / "with", operation, *options, "--audio", files / "track.wav")
    alone = edit(run, tmp_path / "without", operation, *options)
    assert max(float((a - b).abs().max()) for a, b in zip(went, alone, strict=True)) > 1e-4
    if operation == "vary":
        quiet = edit(run, tmp_path / "quiet", operation, *options, "--audio", files / "quiet.wav")
        torch.testing.assert_close(quiet, alone, rtol=0, atol=1e-5)
    main(["edit", "again", str(tmp_path / "with"), "--out", str(tmp_path / "again")])
    for one in json.loads((tmp_path / "with" / "edit.json").read_text())["results"]:
        assert (tmp_path / "again" / one["file"]).read_bytes() == (tmp_path / "with" / one["file"]).read_bytes()


def test_latents_lead_back_with_their_track_alone(run, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    track = tmp_path / "track.wav"
    track.write_bytes((files / "track.wav").read_bytes())
    main([
        "edit", "encode", str(files / "part.wav"), "--ckpt", str(run), "--audio", "track.wav", "--device", "cpu",
        "--sampler", "DDIM", "--sampler.steps", "6",
    ])  # fmt: skip
    main(["edit", "decode", "part.latents.safetensors", "--out", "back", "--device", "cpu"])
    part, back = (audio.decode(path)[0] for path in (files / "part.wav", tmp_path / "back" / "000-decode.wav"))
    assert (back - part).square().mean() < 1e-4 * part.square().mean()
    audio.write(track, noise(100, 5), RATE)
    assert "not the file that it was" in refusal(["edit", "decode", "part.latents.safetensors"], capsys)


def test_a_window_hears_the_track_where_it_lies(run, files):
    model = checkpoint.load(run)
    track, x = noise(4 * LENGTH, 6), noise(LENGTH, 7)
    later = Editor(model, sampler=DDIM(3), track=track).placed(700).vary(x, 0.8)
    assert torch.equal(later, Editor(model, sampler=DDIM(3), track=track[700:]).vary(x, 0.8))
    assert not torch.equal(later, Editor(model, sampler=DDIM(3), track=track).vary(x, 0.8))
    beyond = Editor(model, sampler=DDIM(3), track=track).placed(5 * LENGTH).vary(x, 0.8)
    torch.testing.assert_close(beyond, Editor(model, sampler=DDIM(3)).vary(x, 0.8), rtol=0, atol=1e-5)


def test_of_a_longer_part_the_first_window_is_varied_and_any_is_made_anew(run, files, tmp_path, capsys):
    part = audio.decode(files / "long.wav")[0]
    [varied] = edit(run, tmp_path / "v", "vary", files / "long.wav", "--n", "1", "--audio", files / "track.wav")
    assert "only the first 0.250 s" in capsys.readouterr().out
    assert torch.equal(varied[LENGTH:], part[LENGTH:])
    assert not torch.equal(varied[:LENGTH], part[:LENGTH])
    mask = ["--mask", "0.5-0.6", "--n", "1", "--audio", files / "track.wav"]
    [made] = edit(run, tmp_path / "i", "inpaint", files / "long.wav", *mask)
    changed = (made != part).nonzero().flatten()
    assert 0.5 * RATE <= int(changed.min()) < int(changed.max()) <= 0.6 * RATE


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["vary", "PART", "--ckpt", "drums", "--audio", "TRACK"], "trained without contexts and cannot hear"),
        (["vary", "PART", "--ckpt", "RUN", "--audio", "missing.wav"], "missing.wav: no such file"),
        (["vary", "PART", "--ckpt", "RUN", "--keep", "attack"], "a part of a track has no one attack"),
        (["interpolate", "PART", "LONG", "--ckpt", "RUN"], "cut both to the same bars first"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run, files, tmp_path, argv, says, capsys):
    named = {"PART": files / "part.wav", "LONG": files / "long.wav", "TRACK": files / "track.wav", "RUN": run}
    out = ["--out", str(tmp_path / "o"), "--device", "cpu"]
    assert says in refusal(["edit", *(str(named.get(one, one)) for one in argv), *out], capsys)


def test_parts_are_judged_at_the_rate_of_their_model_and_the_doctor_refuses_them(run, files, tmp_path, capsys):
    songs = str(run.parent / "songs")
    main(["likelihood", "--ckpt", str(run), "--data", songs, "--device", "cpu", "--n", "2", "--out", str(tmp_path)])
    assert len((tmp_path / "likelihood.csv").read_text().splitlines()) == 1 + 2
    library = clips.read(clips.source_of([songs], tmp_path, 1, 0, LENGTH, RATE), LENGTH)
    windows = [audio.decode(file)[0].unflatten(0, (4, LENGTH)) for file in (run.parent / "songs").glob("*/part.wav")]
    for heard in library.sounds(range(16))[:, 0]:
        assert min(float((window - heard).abs().max()) for window in torch.cat(windows)) < 1e-4
    one_shot = ["likelihood", "--ckpt", str(run), "--data", str(files / "part.wav"), "--device", "cpu"]
    assert "the model is of 8000 Hz" in refusal(one_shot, capsys)
    assert "holds pairs: the doctor looks at one-shots" in refusal(["doctor", songs], capsys)

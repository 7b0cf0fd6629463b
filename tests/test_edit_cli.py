"""`diffwave-sde edit`, as a person types it, with the shipped model at a few steps."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from refusal import refusal

from diffwave_sde import audio
from diffwave_sde.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "editing.md"
FEW = ["--ckpt", "drums", "--sampler", "DDIM", "--sampler.steps", "3", "--guidance.weight", "1", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("edit"))
        exec(compile(blocks("python")[0], "editing.md", "exec"), {})
        yield


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def samples(file: str | Path) -> np.ndarray:
    return soundfile.read(file, dtype="float32")[0]


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.timeout(600)
def test_each_command_of_the_page_runs_as_it_stands(command, capsys):
    Path("quiet.py").write_text(next(b for b in blocks("python") if b.startswith("# quiet.py")))
    argv = shlex.split(command)[1:]
    small = [] if "decode" in argv else ["--sampler", "DDIM", "--sampler.steps", "3"]
    before = set(Path().rglob("edit.json"))
    main([*argv, *small])
    said = capsys.readouterr().out
    if argv[0] == "sample":
        assert "4 sounds in" in said
    elif argv[1] == "encode":
        assert Path("kick.latents.safetensors").is_file()
    else:
        (record,) = set(Path().rglob("edit.json")) - before
        results = json.loads(record.read_text())["results"]
        for one in results:
            x = samples(record.parent / one["file"])
            assert np.isfinite(x).all()
            assert np.abs(x).max() > 0.01
        assert (record.parent / "index.html").read_text().count("<audio") >= len(results)


def test_the_python_of_the_page_runs():
    exec(compile(blocks("python")[-1], "editing.md", "exec"), {})
    assert len(samples("variation-1.wav")) == len(samples("kick.wav"))


def edit(*argv: str) -> Path:
    main(["edit", *argv, *FEW])
    return Path(argv[argv.index("--out") + 1])


def test_what_the_mask_leaves_comes_back_bit_for_bit_and_an_edit_is_made_again(capsys):
    x = np.stack((samples("kick.wav"), 0.5 * samples("kick.wav")), 1)[: 44_100 // 3]
    soundfile.write("stereo.flac", np.repeat(x, 2, 0), 88_200, subtype="PCM_24")  # another rate, two channels
    mono, rate = audio.decode("stereo.flac")
    out = edit("inpaint", "stereo.flac", "--mask", "0.10-0.15", "--n", "2", "--label", "kick", "--out", "one")
    for name in ("000-inpaint.wav", "001-inpaint.wav"):
        y = torch.from_numpy(samples(out / name))
        assert soundfile.info(out / name).samplerate == 88_200
        begin, end = round(0.10 * rate), round(0.15 * rate)
        assert torch.equal(y[:begin], mono[:begin])
        assert torch.equal(y[end:], mono[end:])
        assert not torch.equal(y[begin:end], mono[begin:end])
    main(["edit", "again", "one", "--out", "two"])
    assert Path("two/000-inpaint.wav").read_bytes() == Path("one/000-inpaint.wav").read_bytes()
    capsys.readouterr()
    main(["edit", "again", "two", "--out", "two"])
    assert "holds just that already" in capsys.readouterr().out
    said = refusal(["edit", "vary", "kick.wav", "--out", "one", *FEW], capsys)
    assert "one holds another edit: choose another --out" in said
    soundfile.write("stereo.flac", x, 44_100)
    assert "stereo.flac is not the file that it was" in refusal(["edit", "again", "one"], capsys)


def test_a_part_beyond_the_window_is_made_in_a_window_of_its_own():
    x = np.tile(samples("kick.wav"), 4)
    soundfile.write("loop.wav", x, 44_100, subtype="FLOAT")
    out = edit("inpaint", "loop.wav", "--mask", "0.1-0.2,1.5-1.6", "--n", "1", "--out", "loop")
    y, changed = samples(out / "000-inpaint.wav"), np.zeros(len(x), bool)
    for begin, end in ((0.1, 0.2), (1.5, 1.6)):
        changed[round(begin * 44_100) : round(end * 44_100)] = True
    assert np.array_equal(y[~changed], x[~changed])
    assert (y != x)[66_300:70_400].mean() > 0.9


@pytest.mark.parametrize("name", ["silence", "one", "short", "long"])
def test_odd_files_have_a_result_of_their_own_length(name):
    x = {
        "silence": np.zeros(8000),
        "one": np.full(1, 0.5),
        "short": samples("kick.wav")[:1500],
        "long": np.concatenate((samples("kick.wav"), samples("snare.wav"), samples("kick.wav"))),
    }[name]
    soundfile.write(f"{name}.wav", x, 44_100, subtype="FLOAT")
    for strength in ("0", "0.5", "1"):
        out = edit("vary", f"{name}.wav", "--strength", strength, "--n", "1", "--out", f"{name}-{strength}")
        y = samples(out / "000-vary.wav")
        assert len(y) == len(x)
        assert np.array_equal(y, x.astype(np.float32)) == (strength == "0" or name == "one")
        if name == "long":
            assert np.array_equal(y[22_000:], x[22_000:].astype(np.float32))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["stretch", "kick.wav"], "no operation 'stretch': choose one of inpaint, vary"),
        (["inpaint", "nowhere.wav", "--mask", "0-end"], "nowhere.wav: no such file"),
        (["inpaint", "kick.wav"], "--mask is needed"),
        (["inpaint", "kick.wav", "--mask", "0.3-2"], "--mask 0.3-2: lies beyond the file, which ends at 0.500 s"),
        (["inpaint", "kick.wav", "--mask", "0.1-0.2", "--n", "0"], "--n 0: must be at least 1"),
        (["inpaint", "kick.wav", "--mask", "0.1-0.2", "--resample", "0"], "--resample 0: must be at least 1"),
        (["vary", "kick.wav", "--strength", "2"], "strength = 2 must lie between 0"),
        (["vary", "kick.wav", "--label", "gong"], "--label gong: choose of cymbal, kick, snare"),
        (["vary", "kick.wav", "--label", "kick:x"], "--label kick:x: x is no share"),
        (["interpolate", "kick.wav", "snare.wav", "--steps", "1"], "1 steps: there are 2 ends"),
        (["extend", "kick.wav", "--seconds", "0.2"], "--seconds 0.2: kick.wav lasts 0.500 s already"),
        (["decode", "kick.wav"], "kick.wav holds no latents"),
        (["restore", "kick.wav"], "give --task or --likelihood, one of them"),
        (["restore", "kick.wav", "--task", "declip"], "kick.wav: no samples in a row lie at the peak"),
        (["restore", "kick.wav", "--task", "dropout"], "kick.wav: no run of 8 silent samples"),
        (["restore", "kick.wav", "--likelihood", "none.py:X"], "--likelihood none.py:X: give FILE.py:CLASS"),
        (["again", "nothing"], "nothing: no such file: give an edit's folder"),
        (["again", "kick.wav"], "kick.wav is no record of an edit"),
    ],
)
def test_what_cannot_be_is_one_line(argv, says, capsys):
    assert says in refusal(["edit", *argv, *([] if argv[0] in ("again", "decode") else FEW)], capsys)


def test_adaptive_samplers_are_refused(capsys):
    argv = ["edit", "vary", "kick.wav", "--ckpt", "drums", "--sampler", "ProbabilityFlow"]
    assert "ProbabilityFlow chooses its steps by what it meets" in refusal(argv, capsys)


def test_latents_of_another_model_or_step_are_refused_and_the_ends_of_the_way_are_the_files(capsys):
    # By the name the class is kick, and of the latents' file it is not: all that it takes is in it.
    main(["edit", "encode", "kick.wav", "--out", "k.safetensors", *FEW, "--sampler.steps", "12"])
    main(["edit", "decode", "k.safetensors", "--out", "back"])
    error = samples("back/000-decode.wav") - samples("kick.wav")  # beyond the model's window too
    assert np.square(error).mean() < 1e-6 * np.square(samples("kick.wav")).mean()  # -60 dB
    out = edit("interpolate", "kick.wav", "snare.wav", "--steps", "3", "--out", "way")
    assert np.array_equal(samples(out / "000-interpolate.wav"), samples("kick.wav"))
    assert np.array_equal(samples(out / "002-interpolate.wav"), samples("snare.wav"))


def test_an_edit_tells_the_nearest_clip_of_each_result(capsys):
    Path("clips/kick").mkdir(parents=True)
    for i in range(3):
        x = samples("kick.wav")
        soundfile.write(f"clips/kick/{i}.wav", x if i == 1 else np.random.default_rng(i).normal(0, 0.1, len(x)), 44_100)
    out = edit("vary", "kick.wav", "--strength", "0", "--n", "1", "--neighbours_data", "clips", "--out", "near")
    (result,) = json.loads((out / "edit.json").read_text())["results"]
    assert (result["neighbour"]["file"], round(result["neighbour"]["alike"], 3)) == ("kick/1.wav", 1)
    assert "nearest training clip" in (out / "index.html").read_text()
    assert "perhaps copies: 1 of 1 sounds" in capsys.readouterr().out
    assert len(list(out.glob("*.wav"))) == 2  # the result and the file before: the clip is hidden

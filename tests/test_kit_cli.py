"""`diffwave-sde kit`, as a person types it, with the shipped model at a few steps."""

import json
import re
import shlex
import tarfile
import zipfile
from pathlib import Path

import pytest
import soundfile
import torch

from diffwave_sde import audio
from diffwave_sde.cli import main
from diffwave_sde.data import kits as readers
from diffwave_sde.kits.source import Source

PAGE = Path(__file__).parents[1] / "docs" / "kits.md"
FEW = ["--sampler", "DDIM", "--sampler.steps", "3", "--length", "2000", "--device", "cpu"]
MODEL = ["--ckpt", "drums", *FEW]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("kit"))
        patch.setenv("HOME", str(Path.cwd()))
        yield


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("diffwave-sde")])
def test_each_command_of_the_page_runs_as_it_stands(command, capsys):
    argv = shlex.split(command)[1:]
    main([*argv, *FEW])
    if "--watch" in argv:
        assert len(list(Path("daw/new").glob("*.wav"))) == int(argv[argv.index("--n") + 1])
        return
    out = Path(argv[argv.index("--out") + 1])
    told = json.loads((out / "kit.json").read_text(encoding="utf-8"))["kit"]
    files = {sample["file"] for one in told["instruments"] for sample in one["samples"]}
    assert {f"Samples/{file.name}" for file in (out / "Samples").iterdir()} == files
    assert str(len(files)) in capsys.readouterr().out
    assert {one.file for one in readers.sfz(out / f"{out.name}.sfz")} == files
    if "hydrogen" in argv:
        with tarfile.open(out / f"{out.name}.h2drumkit") as archive:
            assert len(archive.getnames()) == len(files) + 1
    if "--zip" in argv:
        packed = zipfile.ZipFile(f"{out}.zip")
        assert {f"{out.name}/{file}" for file in files} < set(packed.namelist())
        assert packed.testzip() is None
        assert f"{out.name}/{out.name}.dspreset" in zipfile.ZipFile(f"{out}.dslibrary").namelist()


def test_the_python_of_the_page_runs():
    exec(compile(blocks("python")[0].replace("steps=28", "steps=3"), "kits.md", "exec"), {})
    assert len(list(Path("from-python/Samples").glob("*.wav"))) == 3


def test_a_kit_goes_on_and_another_form_of_it_takes_no_call_of_the_network(monkeypatch, capsys):
    kit = ["kit", *MODEL, "--out", "grows"]
    main([*kit, "--kick", "1", "--cymbal=2"])
    first = Path("grows/Samples/Kick 1.wav").read_bytes()
    drawn, draw = [], Source.draw
    monkeypatch.setattr(Source, "draw", lambda self, *a, **k: (drawn.append(list(a[2])), draw(self, *a, **k))[1])
    main([*kit, "--kick", "1", "--cymbal", "2", "--rate", "48000", "--format", "hydrogen", "--levels", "none"])
    assert not drawn
    assert "0 sounds made" in capsys.readouterr().out
    assert soundfile.info("grows/Samples/Kick 1.wav").samplerate == 48_000
    assert not Path("grows/grows.sfz").exists()
    main([*kit, "--kick", "3", "--cymbal", "2", "--levels", "none"])
    assert drawn == [[1, 2]]
    main([*kit, "--kick", "1", "--cymbal", "2"])
    assert Path("grows/Samples/Kick 1.wav").read_bytes() == first
    assert not Path("grows/Samples/Kick 2.wav").exists()
    main([*kit, "--n", "3", "--label", "kick,kick:0.5+snare:0.5"])  # two and one
    files = {file.name for file in Path("grows/Samples").iterdir()}
    assert files == {"Kick 1.wav", "Kick 2.wav", "Kick 0.5 Snare 0.5 1.wav"}
    # Number 2 of a class is the sound of that number that `sample` makes.
    main(["sample", *MODEL, "--label", "kick", "--n", "3", "--out", "same"])
    sampled, made = (audio.decode(file)[0] for file in ("same/002-kick.wav", "grows/.made/Kick 3.wav"))
    assert torch.allclose(sampled, made, atol=1e-6)


def test_a_file_tells_where_it_comes_from_and_nothing_clips(capsys):
    main(["kit", *MODEL, "--out", "told", "--snare", "2", "--seed", "5", "--licence", "mine", "--layers", "2"])
    with soundfile.SoundFile("told/Samples/Snare 2 v1.wav") as file:
        assert file.subtype == "PCM_24"
        assert file.title == "Snare 2 v1"
        assert file.copyright == "mine"
        assert file.comment.startswith("model drums, step 9000; class snare; seed 5, sound 1")
    peaks = [float(audio.decode(file)[0].abs().max()) for file in Path("told/Samples").iterdir()]
    assert max(peaks) == pytest.approx(10 ** (-1 / 20), abs=1e-6)
    assert "one gain for all" in capsys.readouterr().out
    main(["kit", *MODEL, "--out", "card", "--kick", "1"])
    assert soundfile.SoundFile("card/Samples/Kick 1.wav").copyright.startswith("CC0-1.0")
    assert str(Path.cwd()) not in Path("card/kit.json").read_text()


def test_new_sounds_are_dropped_beside_what_is_there_until_ctrl_c(monkeypatch, capsys):
    home = Path("drops")
    home.mkdir()
    (home / "Kick 7.wav").write_bytes(b"mine")
    main(["kit", *MODEL, "--watch", "drops", "--kick", "2", "--snare", "1", "--n", "3"])
    assert sorted(file.name for file in home.iterdir()) == ["Kick 7.wav", "Kick 8.wav", "Kick 9.wav", "Snare 1.wav"]
    draw, left = Source.draw, [1, 2]

    def stopped(self, *rest, **more):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return draw(self, *rest, **more)

    monkeypatch.setattr(Source, "draw", stopped)
    main(["kit", *MODEL, "--watch", "drops", "--snare", "1"])
    assert capsys.readouterr().out.endswith("2 sounds in drops/\n")
    assert (home / "Kick 7.wav").read_bytes() == b"mine"
    assert not torch.equal(*(audio.decode(home / f"Snare {i}.wav")[0] for i in (1, 2)))
    assert {file.suffix for file in home.iterdir()} == {".wav"}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--gong", "3"], "--gong: no option of `kit`, and no class of "),
        (["--gong", "3"], "it has cymbal, kick, snare"),
        (["--kick", "four"], "--kick: no option of `kit`; if it is a class, give the number of its sounds, not four"),
        (["--kick"], "if it is a class, give the number of its sounds: --kick 4"),
        (["--sounds", "kick"], "--sounds kick: write CLASS=NUMBER, such as kick=4"),
        (["--sounds", "gong=2"], "--sounds gong: choose of cymbal, kick, snare"),
        (["--sounds", "kick=2", "--kick", "1"], "--kick 1: --sounds says how many of kick"),
        (["--kick", "1", "--n", "4"], "--n 4: the classes say how many already"),
        (["--kick", "1", "--label", "snare"], "--label snare: the classes are said already"),
        (["--label", "gong", "--n", "2"], "--label gong: choose of cymbal, kick, snare"),
        (["--kick", "0", "--n", "0"], "--n 0: ask for at least one sound"),
        (["--kick", "1", "--format", "exs"], "--format exs: choose of sfz, hydrogen, decentsampler, wav"),
        (["--kick", "1", "--rate", "22050"], "--rate: 22050 is not one of 44100, 48000"),
        (["--kick", "1", "--peak", "3"], "--peak = 3 dBFS lies above full scale"),
        (["--kick", "1", "--layers", "0"], "--layers = 0: must lie between 1 and 127"),
        (["--kick", "1", "--layers", "5", "--robins", "4", "--format", "hydrogen"], "and Hydrogen takes 16"),
        (["--kick", "200"], "200 instruments are more than there are keys for"),
        (["--kick", "1", "--watch", "x", "--zip"], "--zip is for a kit, and --watch for single sounds"),
        (["--kick", "1", "--out", "grows", "--seed", "9"], "grows holds a kit of another seed (0, not 9)"),
        (["--kick", "1", "--out", "foreign"], "Samples/Kick 1.wav is not of this kit, or was changed since"),
    ],
)
def test_what_cannot_be_is_one_line(argv, says, capsys):
    foreign = Path("foreign/Samples/Kick 1.wav")
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(SystemExit) as stop:
        main(["kit", *MODEL, *([] if {"--out", "--watch"} & set(argv) else ["--out", "none"]), *argv])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("diffwave-sde: ")
    assert says in said
    assert foreign.read_bytes() == b"mine"

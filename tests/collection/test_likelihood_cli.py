"""`diffwave-sde likelihood` from the command line."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from refusal import refusal

from diffwave_sde import audio, checkpoint
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.cli import main
from diffwave_sde.collection import clips, scores
from diffwave_sde.data.items import Rendered
from diffwave_sde.likelihood import Bound
from diffwave_sde.model import Model
from diffwave_sde.networks import UNet
from diffwave_sde.sounds import page


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A small network in the place of the model that comes with the program."""
    torch.manual_seed(0)
    net = UNet(1, 3, channels=(8, 8), factors=(5,), blocks=1, embedding=16, heads=2)
    model = LoadedModel(Model(net).eval(), ("cymbal", "kick", "snare"), 44_100, 2000, 0.0, 1, checkpoint.find("drums"))
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: model)
    monkeypatch.setattr(page, "spectrogram_png", lambda *_: None)  # a second each


SMALL = ["--ckpt=drums", "--probes=1", "--terms=1", "--device=cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine short drums, one of them of a class that the model does not know."""
    home = tmp_path_factory.mktemp("drums")
    for i in range(9):
        clip = Rendered("drums", i, 7).load(2000)
        label = clip.label if i else "cowbell"
        audio.write(home / label / f"{i}.wav", audio.from_int16(clip.window), subtype="PCM_16")
    return home


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_a_line_for_each_sound_and_a_stop_that_changes_nothing(folder, tmp_path, capsys, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(["likelihood", *SMALL, f"--data={folder}", f"--out={whole}", "--rank", "--ends=2"])
    said = capsys.readouterr().out
    assert "bits per" in said
    assert "cowbell" in said
    assert len(rows(whole / "likelihood.csv")) == 9
    assert [float(r["suspicion"]) for r in rows(whole / "rank.csv")] == sorted(
        (float(r["suspicion"]) for r in rows(whole / "rank.csv")), reverse=True
    )
    assert "Least expected" in (whole / "index.html").read_text(encoding="utf-8")

    calls = []
    own = scores.bits_per_sample

    def interrupted(*arguments, **options):
        calls.append(len(arguments[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*arguments, **options)

    monkeypatch.setattr(scores, "bits_per_sample", interrupted)
    again = ["likelihood", *SMALL, f"--data={folder}", f"--out={parts}", "--rank", "--batch_size=4"]
    with pytest.raises(SystemExit):
        main(again)
    assert len(rows(parts / "likelihood.csv")) == 4
    main(again)
    assert calls == [4, 4, 4, 1]  # what was scored is not scored again
    one, two = ({r["id"]: float(r["bits"]) for r in rows(out / "likelihood.csv")} for out in (whole, parts))
    assert one.keys() == two.keys()
    assert all(one[k] == pytest.approx(two[k], rel=1e-4) for k in one)


def test_progress_goes_on_within_a_batch_and_begins_where_a_stopped_run_was(folder, tmp_path):
    read = clips.read(clips.source_of([str(folder)], tmp_path, 1, 0), 2000)
    told = []

    def scored(library):
        scores.score_library(
            *(checkpoint.load(), Bound(1, 3), library, tmp_path, {}, 0, 4),
            progress=lambda done, total: told.append((done, total)),
        )

    scored(
        replace(read, **{name: getattr(read, name)[:4] for name in ("files", "labels", "digests", "windows", "items")})
    )
    assert told == [(done, 4) for done in (0, 1, 2, 3, 4, 4)]  # four calls of the network for a batch of four
    told.clear()
    scored(read)
    assert (told[0], told[-1]) == ((4, 9), (9, 9))
    assert told == sorted(told)


def test_files_and_the_flow_and_what_it_is_called(folder, tmp_path, capsys):
    files = [str(path) for path in sorted(folder.rglob("*.wav"))[:2]]
    options = ["--method=flow", "--steps=2", "--noise=gaussian", f"--out={tmp_path}"]
    main(["likelihood", "--ckpt=drums", "--probes=2", "--device=cpu", *options, "--data", *files])
    found = rows(tmp_path / "likelihood.csv")
    assert all(float(r["bits_error"]) > 0 for r in found)
    assert json.loads((tmp_path / "likelihood.json").read_text())["steps"] == 2
    assert "at most" not in capsys.readouterr().out  # a density of one block is no bound


def test_an_adaptive_solver_and_small_steps_agree_on_a_network_of_float32(folder, tmp_path):
    file = str(sorted(folder.rglob("*.wav"))[0])
    bits = {}
    for way in ("--tolerance=1e-3", "--steps=100"):
        out = tmp_path / way.strip("-")
        main(["likelihood", "--ckpt=drums", "--device=cpu", "--method=flow", way, f"--data={file}", f"--out={out}"])
        bits[way] = float(rows(out / "likelihood.csv")[0]["bits"])
    assert bits["--tolerance=1e-3"] == pytest.approx(bits["--steps=100"], abs=0.02)


def test_sounds_are_dequantised_as_asked_and_the_folder_remembers_how(folder, tmp_path, capsys):
    file = str(sorted(folder.rglob("*.wav"))[0])
    asked = ["likelihood", "--ckpt=drums", "--device=cpu", "--method=flow", "--steps=2", "--probes=2", f"--data={file}"]
    main([*asked, f"--out={tmp_path / 'uniform'}"])
    fitted = [*asked, f"--out={tmp_path / 'fitted'}", "--dequantise=variational", "--draws=2"]
    main(fitted)
    one, two = (float(rows(tmp_path / name / "likelihood.csv")[0]["bits"]) for name in ("uniform", "fitted"))
    assert one != two
    assert one == pytest.approx(two, abs=0.5)  # the cell is narrow against the model's noise
    assert "dequantise" not in json.loads((tmp_path / "uniform" / "likelihood.json").read_text())
    capsys.readouterr()
    assert "(draws was 2)" in refusal([*fitted[:-1], "--draws=3"], capsys)
    assert "--method flow: draws = 2" in refusal([*asked, "--draws=2", "--probes=1"], capsys)
    assert "are of --method flow" in refusal(["likelihood", *SMALL, f"--data={file}", "--draws=2"], capsys)


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    assert "--data" in refusal(["likelihood", *SMALL, "--data", "none.wav", "other.wav"], capsys)
    assert "--n 0: must be at least 1" in refusal(["likelihood", *SMALL, "--n=0", f"--data={folder}"], capsys)
    assert "probes = 0" in refusal(["likelihood", "--ckpt=drums", "--probes=0", f"--data={folder}"], capsys)
    out = tmp_path / "held"
    main(["likelihood", *SMALL, f"--data={folder}", "--n=1", f"--out={out}"])
    other = ["likelihood", *SMALL, "--seed=3", f"--data={folder}", "--n=1", f"--out={out}"]
    assert "scores made otherwise (seed was 0): choose another --out" in refusal(other, capsys)


def test_classes_of_any_case_are_the_models_own():
    from diffwave_sde.collection.clips import known

    assert torch.equal(known(["Kick", "tom", "snare"], ("kick", "snare")), torch.tensor([0, -1, 1]))

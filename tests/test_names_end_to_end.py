"""Names are any text that a file system holds, from the folders of sounds to the sounds that a model makes of them."""

import json
import os
import re
from pathlib import Path

import pytest
import soundfile
import yaml
from test_cli import SMALL

from diffwave_sde import checkpoint
from diffwave_sde.cli import main, runs
from diffwave_sde.data.sources import Rendered
from diffwave_sde.model import KEY

BYTE = os.fsdecode(b"caf\xe9")
LABELS = ("808", "a,b", r"caf\xe9", "on")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to run in, with sounds in classes of such names; the folder of the sounds has one too."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("808", "a,b", BYTE, "on", "left out")):
        for i in range(6):
            file = tmp_path / os.fsdecode(b"my kit\xff") / name / f"{i}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(os.fsencode(file), Rendered("drums", 6 * k + i, 7).load(2000).window, 44_100)
    return tmp_path


def test_classes_and_runs_of_any_name_are_trained_resumed_heard_and_exported(here, capsys):
    data = ["--data.dataset=" + os.fsdecode(b"my kit\xff"), "--data.root=stores", "--data.length=2000"]
    data.append(f'--data.classes=[808,on,"a,b",{BYTE}]')
    main(["prepare", *data])
    assert r"24 clips of 808, a\,b, caf\xe9, on" in capsys.readouterr().out
    small = [option for option in SMALL if not option.startswith(("--data.dataset", "--data.length"))]
    main(["fit", *small, *data, "--name=" + os.fsdecode(b"r[\xe9]"), "--trainer.max_steps=1"])
    run = here / "runs" / "r-xe9"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["classes"] == [808, True, "a,b", r"caf\xe9"]
    main(["fit", "--name=" + os.fsdecode(b"r[\xe9]"), "--ckpt_path=last", "--trainer.max_steps=2"])
    assert checkpoint.read(run / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert checkpoint.load(run).labels == LABELS
    names = sorted(file.name for file in (run / "samples" / "step=2").glob("0[0-3]*.wav"))
    assert names == ["00-808.wav", "01-a-b.wav", "02-caf-xe9.wav", "03-on.wav"]

    sample = ["sample", f"--ckpt={run}", "--n=4", "--sampler=DDIM", "--sampler.steps=2"]
    out = os.fsdecode(b"out \xe9")
    main([*sample, f"--out={out}", rf"--label={BYTE},808,a\,b,on"])
    home = next(Path().glob("out*"))
    asked = [sound["label"] for sound in json.loads((home / "sounds.json").read_text())["sounds"]]
    assert asked == [r"caf\xe9", "808", "a,b", "on"]
    said = capsys.readouterr().out
    assert all(re.search(rf"│ {re.escape(label)} +│ 1 ", said) for label in LABELS)
    main([*sample, "--out=one", "--label=a,b"])  # the one class whose commas were typed
    assert {file.name[4:] for file in (here / "one").glob("*.wav")} == {"a-b.wav"}
    with pytest.raises(SystemExit):
        main([*sample, "--out=none", "--label=808,gong"])
    assert r"--label gong: choose of 808, a\,b, caf\xe9, on" in capsys.readouterr().err

    found = ["--n=4", "--resamples=1", "--embedding=log-mel", "--sampler=DDIM", "--sampler.steps=2", "--out=found"]
    main(["evaluate", f"--ckpt={run}", *found])
    assert set(json.loads((here / "found" / "evaluation.json").read_text())["embeddings"]["log-mel"]) >= {"all"}
    main(["export", f"--ckpt={run}", "--out=export", "--evaluation=found/evaluation.json"])
    card = (here / "export" / "README.md").read_text("utf-8")
    assert r"short sounds: 808, a\\,b, caf\\xe9, on." in card
    assert checkpoint.load(here / "export").labels == LABELS
    assert checkpoint.read(here / "export" / "model.safetensors")[KEY]["config"]["data"]["dataset"] == "my-kit-xff"


def test_a_run_whose_name_is_a_pattern_is_found(here):
    for name in ("a[1]", "a1"):
        file = here / "runs" / name / "checkpoints" / "last.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
    assert runs.resolve("last", "a[1]").parts[1] == "a[1]"

"""Models from elsewhere run no code: hostile folders and checkpoints, against every verb that loads a model."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from refusal import refusal

from diffwave_sde import checkpoint, trust
from diffwave_sde.cli import edit, kinds, main
from diffwave_sde.model import KEY

DRUMS = checkpoint.MODELS / "drums"
EVIL = """
from pathlib import Path
Path("ran").touch()
from diffwave_sde.sde import VP
class Fade(VP):
    pass
def make(*args, **kwargs):
    pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a module of one's own, `evil`, that leaves a file `ran` when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    yield tmp_path
    import sys

    sys.modules.pop("evil", None)
    trust.reset()


def folder_with(here: Path, change) -> Path:
    """A copy of the model that comes with the program, its recipe changed."""
    folder = here / "model"
    shutil.copytree(DRUMS, folder)
    recipe = yaml.safe_load((folder / "config.yaml").read_text())
    change(recipe["config"]["model"])
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def name(path: str, part: str = "sde"):
    def change(model):
        model[part] = {"class_path": path}

    return change


HOSTILE = {
    "class": name("evil.Fade"),
    "short": lambda model: model.update(sde="evil.Fade"),
    "written out": lambda model: model.update(sde='{"class_path": "evil.Fade"}'),
    "spaces": name(" evil.Fade "),
    "nested": lambda model: model["net"].setdefault("init_args", {}).update(encoder={"class_path": "evil.Fade"}),
    "function": name("evil.make", "sampler"),
    "builtin": name("os.system", "sampler"),
    "behind the package": name("diffwave_sde.atomic.shutil.rmtree", "sampler"),
    "loader": name("torch.hub.load", "sampler"),
    "list": lambda model: model.update(sde=[{"class_path": "evil.Fade"}]),
    "class that is no text": lambda model: model.update(sde={"class_path": ["evil", "Fade"]}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_folder_that_names_other_code_is_refused_before_any_of_it_runs(change, here):
    folder = folder_with(here, change)
    with pytest.raises(ValueError, match=r"is not used|--trust"):
        checkpoint.load(folder)
    assert not (here / "ran").exists()


def test_a_file_that_a_folder_names_is_looked_into(here):
    (here / "more.yaml").write_text("class_path: evil.Fade\n")
    with pytest.raises(trust.Untrusted, match=r"more\.yaml"):
        checkpoint.load(folder_with(here, lambda model: model.update(sde="more.yaml")))
    assert not (here / "ran").exists()


VERBS = {
    "sample": ["sample", "--n=1", "--ckpt=model"],
    "edit": ["edit", "vary", "x.wav", "--ckpt=model"],
    "evaluate": ["evaluate", "--ckpt=model", "--n=2"],
    "export": ["export", "--ckpt=model", "--out=out"],
    "kit": ["kit", "--ckpt=model", "--n=1"],
    "schedule": ["schedule", "--ckpt=model"],
    "weak": ["sample", "--n=1", "--ckpt=drums", "--weak=model"],
    "classifier": ["sample", "--n=1", "--ckpt=drums", "--classifier=model"],
    "init": ["fit", "--init=model"],
    "teacher": [
        "fit", f"--config={kinds.CONFIGS / 'experiment' / 'distil.yaml'}", "--model.loss.teacher=model",
    ],
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_runs_what_a_folder_names(verb, here, capfd):
    folder = folder_with(here, name("evil.Fade"))
    if verb == "classifier":
        recipe = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({**recipe, "kind": "classifier"}))
    if verb == "edit":
        from diffwave_sde import audio

        audio.write(here / "x.wav", torch.zeros(2000) + 0.1)
    said = refusal(VERBS[verb], capfd)
    assert "evil.Fade" in said
    assert "--trust" in said
    assert not (here / "ran").exists()


@pytest.mark.parametrize("how", ["again", "decode"])
def test_the_record_of_an_edit_names_no_other_code(how, here, capfd, monkeypatch):
    options = {"sampler": {"class_path": "evil.Fade"}, "ckpt": "drums", "label": None, "config": ["more.yaml"]}
    (here / "more.yaml").write_text("sampler: evil.Fade\n")
    if how == "again":
        (here / "edit.json").write_text(json.dumps({"operation": "vary", "options": options, "files": []}))
    facts = {"label": None, "options": options, "model": {"path": "drums"}}
    monkeypatch.setattr(edit.files, "read_latents", lambda file: (facts, None))
    (here / "x.safetensors").touch()
    file = {"again": "edit.json", "decode": "x.safetensors"}[how]
    assert "evil.Fade" in refusal(["edit", how, file], capfd)
    assert "config" not in edit._own({"config": ["more.yaml"]}, here)
    assert not (here / "ran").exists()


def test_a_run_that_somebody_sends_is_not_gone_on_with(here, capfd):
    checkpoints = here / "runs" / "theirs" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save({KEY: {"kind": "diffusion"}, "state_dict": {}}, checkpoints / "last.ckpt")
    callback = {"class_path": "LambdaCallback", "init_args": {"on_fit_start": "evil.make"}}
    (checkpoints.parent / "config.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert "evil.make" in refusal(["fit", "--ckpt_path=runs/theirs"], capfd)
    (checkpoints.parent / "config.yaml").write_text("name: !!python/object/apply:evil.make []\n")
    assert "config.yaml" in refusal(["fit", "--ckpt_path=runs/theirs"], capfd)
    assert not (here / "ran").exists()


class Touch:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("verb", ["sample", "evaluate", "export", "init", "weak"])
def test_no_pickle_runs(verb, here, capfd):
    with (here / "model").open("wb") as file:
        pickle.dump({KEY: Touch()}, file)
    assert "not a checkpoint" in refusal(VERBS[verb], capfd)
    torch.save({KEY: Touch()}, here / "model")
    assert "not a checkpoint" in refusal(VERBS[verb], capfd)
    assert not (here / "ran").exists()


def test_ones_own_class_needs_one_flag_or_its_name_on_the_command_line(here):
    folder = folder_with(here, name("evil.Fade"))
    with pytest.raises(trust.Untrusted):
        checkpoint.load(folder)
    trust.allow(trust.named_in(["sample", "--sampler", "evil.Other"]))
    assert type(checkpoint.load(folder).module.denoiser.sde).__name__ == "Fade"
    trust.reset()
    with pytest.raises(trust.Untrusted):
        checkpoint.load(folder)
    trust.allow(everything=True)
    assert type(checkpoint.load(folder).module.denoiser.sde).__name__ == "Fade"


def test_the_flag_works_with_a_verb(here):
    folder_with(here, name("evil.Fade"))
    main(["sample", "--ckpt=model", "--n=1", "--out=sounds", "--sampler=DDIM", "--sampler.steps=2", "--trust"])
    assert list((here / "sounds").glob("*.wav"))


def test_what_the_program_writes_itself_is_not_refused():
    for file in kinds.CONFIGS.rglob("*.yaml"):
        trust.check(yaml.safe_load(file.read_text()), file)


def test_the_help_of_a_verb_tells_of_the_flag(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "--trust" in capsys.readouterr().out

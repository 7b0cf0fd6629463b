"""Paths on the command line and in YAML are what a person means by them."""

import pytest
import yaml

from diffwave_sde.cli import compare, evaluate, export, kit, likelihood, main, page, sample, schedule
from diffwave_sde.cli.lightning import CLI
from diffwave_sde.cli.path_options import expand_files, expand_options

VERBS = {
    "sample": (sample, ["ckpt", "out", "weak", "sampler.init_args.grid.init_args.file"]),
    "evaluate": (evaluate, ["ckpt", "real", "generated", "out"]),
    "schedule": (schedule, ["ckpt", "out"]),
    "kit": (kit, ["ckpt", "out", "weak", "watch"]),
    "likelihood": (likelihood, ["ckpt", "out"]),
    "page": (page, ["out"]),
    "compare": (compare, ["out"]),
    "export": (export, ["ckpt", "out", "evaluation", "weak"]),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("SOUNDS", str(tmp_path / "sounds"))
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("verb", "option"), [(verb, option) for verb, (_, all) in VERBS.items() for option in all])
def test_home_and_variables_are_expanded_in_every_option_that_is_a_path(verb, option, home):
    argv = {"page": [], "compare": ["a", "b"]}.get(verb, ["--ckpt=a", "--out=b"])
    if option.startswith("sampler"):
        argv += ["--sampler=DDIM", "--sampler.grid=LearnedGrid"]
    config = expand_options(VERBS[verb][0].parser().parse_args([*argv, f"--{option}=~/x/$SOUNDS"]))
    assert config[option] == f"{home}/me/x{home}/sounds"


def test_the_trainers_paths_are_expanded_in_files_too(home):
    mine = {"trainer": {"default_root_dir": "~/runs", "logger": {"class_path": "CSVLogger"}}}
    mine["trainer"]["logger"]["init_args"] = {"save_dir": "$SOUNDS/logs"}
    (home / "mine.yaml").write_text(yaml.safe_dump(mine))
    trainer = parsed(["fit", "--config", str(home / "mine.yaml")]).trainer
    assert trainer.default_root_dir == f"{home}/me/runs"
    assert trainer.logger.init_args.save_dir == f"{home}/sounds/logs"


def parsed(argv):
    """The options of a command of Lightning's, as they are before anything is made of them."""
    cli = CLI.__new__(CLI)
    found = []

    class Stop(Exception):
        pass

    def stop(self):
        found.append(self.config[argv[0]])
        raise Stop

    cli.before_instantiate_classes = stop.__get__(cli)
    with pytest.raises(Stop):
        cli.__init__(argv)
    return found[0]


@pytest.mark.parametrize("text", ["$NOWHERE/x", "${NOWHERE}/x"])
def test_what_cannot_be_expanded_is_refused_and_makes_no_folder(text, home, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", "--n=1", f"--out={text}"])
    assert stop.value.code == 2
    assert f"--out {text}: the variable NOWHERE is not set" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_files_of_options_are_expanded(home):
    argv = ["sample", "--config", "~/a.yaml", "--config=$SOUNDS/b.yaml", "--out=~/x"]
    assert expand_files(argv) == [
        "sample",
        "--config",
        f"{home}/me/a.yaml",
        f"--config={home}/sounds/b.yaml",
        "--out=~/x",
    ]

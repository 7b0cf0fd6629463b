"""Old names go on working for a version, and say what they are called now."""

import re

import pytest
import yaml

from diffwave_sde import compatibility
from diffwave_sde.cli import main
from diffwave_sde.compatibility import renew, renew_arguments, renew_weights


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Names of this test's own, so that it outlasts those of any version."""
    monkeypatch.setattr(compatibility, "CLASSES", {"Old": "New"})
    monkeypatch.setattr(compatibility, "OPTIONS", {"sampler": {"calm": "eta_low"}, "guidance": {"high": "sigma_max"}})
    monkeypatch.setattr(compatibility, "VERB_OPTIONS", {"evaluate": {"rounds": "resamples"}})
    monkeypatch.setattr(compatibility, "FILES", {"sde/line.yaml": "sde/flow.yaml"})
    monkeypatch.setattr(compatibility, "WEIGHTS", ((r"^(net\.)say\.", r"\1head."),))
    monkeypatch.setattr(compatibility, "_announced", set())


def test_a_configuration_is_renewed_wherever_an_old_name_stands(capsys):
    old = {
        "model": {
            "sampler": {"class_path": "diffwave_sde.samplers.calm.Old", "init_args": {"calm": 1.0, "steps": 4}},
            "guidance": {"weight": 2.0, "high": 20.0},
            "calm": 3,  # no option of a sampler
            "labels": ["Old"],  # no class of the program
        },
        "callbacks": [{"class_path": "Old"}, {"class_path": "mine.Old"}],
    }
    assert renew(old) == {
        "model": {
            "sampler": {"class_path": "diffwave_sde.samplers.New", "init_args": {"eta_low": 1.0, "steps": 4}},
            "guidance": {"weight": 2.0, "sigma_max": 20.0},
            "calm": 3,
            "labels": ["Old"],
        },
        "callbacks": [{"class_path": "New"}, {"class_path": "mine.Old"}],
    }
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3  # once a name
    assert "sampler.calm is called sampler.eta_low now" in said[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["fit", "--model.sampler=Old"], ["fit", "--model.sampler=New"]),
        (["fit", "--model.sampler", "Old"], ["fit", "--model.sampler", "New"]),
        (["fit", "--model.sampler.init_args.calm=1"], ["fit", "--model.sampler.init_args.eta_low=1"]),
        (["sample", "--sampler.calm", "1"], ["sample", "--sampler.eta_low", "1"]),
        (["sample", "--guidance.high", "3"], ["sample", "--guidance.sigma_max", "3"]),
        (["evaluate", "--rounds", "3"], ["evaluate", "--resamples", "3"]),
        (["sample", "--rounds", "3"], ["sample", "--rounds", "3"]),
        (["fit", "--config", "configs/sde/line.yaml"], ["fit", "--config", "configs/sde/flow.yaml"]),
        (["sample", "--label", "Old", "--out=Old"], ["sample", "--label", "Old", "--out=Old"]),
    ],
    ids=lambda argv: " ".join(argv),
)
def test_a_command_line_is_renewed(old, new):
    assert renew_arguments(old) == new


def test_a_yaml_file_of_the_command_line_is_renewed_and_one_without_old_names_stays_a_file(tmp_path):
    old, present, gone = (tmp_path / name for name in ("old.yaml", "present.yaml", "gone.yaml"))
    old.write_text("rounds: 3\nsampler:\n  class_path: Old\n")
    present.write_text("resamples: 3\n")
    argv = renew_arguments(["evaluate", "--config", str(old), f"--config={present}", "--config", str(gone)])
    assert yaml.safe_load(argv[2]) == {"resamples": 3, "sampler": {"class_path": "New"}}
    assert argv[3:] == [f"--config={present}", "--config", str(gone)]


def test_weights_are_renewed_by_their_place():
    assert renew_weights({"net.say.bias": 1, "other.say.bias": 2}) == {"net.head.bias": 1, "other.say.bias": 2}


def test_a_file_of_an_old_name_that_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sde").mkdir()
    (tmp_path / "sde" / "line.yaml").write_text("{}")
    assert renew_arguments(["fit", "--config=sde/line.yaml"]) == ["fit", "--config=sde/line.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1\n", "line 2: YAML takes no tabs: indent by spaces"),
        ("a: 1\nb: [1\nc: 2\n", "line 3: did not find|line 3: expected ',' or ']'"),
        ("a: 1\n b: 2\n", "line 2: mapping values are not allowed here"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_by_its_name_and_line(text, message, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["sample", "--config", str(tmp_path / "mine.yaml")])
    assert stop.value.code == 2
    assert re.search(rf"mine\.yaml, ({message})", capsys.readouterr().err)

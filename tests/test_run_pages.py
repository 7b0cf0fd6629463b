"""`page` and `compare`, and the loggers of one flag, from the command line."""

import contextlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from refusal import refusal
from test_cli import SMALL

from diffwave_sde.cli import loggers, main
from diffwave_sde.sounds import history


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key == "src"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with two runs, of three steps and of five, that log into CSV files by one flag."""
    home = tmp_path_factory.mktemp("two")
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(log):
        patch.chdir(home)
        plain = [option for option in SMALL if not option.startswith("--trainer.logger")]
        for name, steps in (("three", 3), ("five", 5)):
            main(["fit", "--data.root=data", *plain, f"--trainer.max_steps={steps}", f"--name={name}",
                  "--trainer.logger=CSVLogger"])  # fmt: skip
    (home / "log").write_text(log.getvalue())
    return home


@pytest.fixture(autouse=True)
def here(two, monkeypatch):
    monkeypatch.chdir(two)
    return two


def test_a_log_file_has_a_line_now_and_then_and_neither_bars_nor_tables(here):
    log = (here / "log").read_text()
    assert [c for c in log if not c.isprintable() and c != "\n"] == []
    steps = re.findall(r"^step (\d)/(\d): .*", log, re.MULTILINE)
    assert steps == [("1", "3"), ("3", "3"), ("3", "3"), ("1", "5"), ("3", "5"), ("5", "5")]
    assert not re.search("FLOPs|[─━│┃]", log)


def test_one_flag_logs_into_the_runs_folder(here):
    for name in ("three", "five"):
        assert (here / "runs" / name / "csv" / "version_0" / "metrics.csv").is_file()
        assert (here / "runs" / name / "csv" / "version_0" / "sounds.csv").is_file()


def test_a_place_that_is_given_is_kept():
    assert loggers.placed(["--trainer.logger", "CSVLogger", "--x=1"]) == [
        "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir=", "--trainer.logger.name=csv", "--x=1",
    ]  # fmt: skip
    given = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.logger.name=x"]
    assert loggers.placed(given) == given
    assert loggers.placed(["--trainer.logger=false"]) == ["--trainer.logger=false"]


def test_a_run_becomes_one_file_to_send(here, capsys):
    main(["page", "five", "--out=five.html", "--steps=1"])
    text = (here / "five.html").read_text()
    links = Links(text).found
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "<figcaption>Loss</figcaption>" in text
    size = (here / "five.html").stat().st_size
    assert f"five.html: {size / 1e3:.0f} kB, complete in itself" in capsys.readouterr().out


def test_a_run_without_sounds_has_a_page_of_its_figures(tmp_path, capsys):
    history.append(tmp_path / "judge" / history.FILE, 20, {"val/loss": 0.5, "val/accuracy": 0.75})
    main(["page", str(tmp_path / "judge")])
    text = (tmp_path / "judge" / "samples" / "index.html").read_text()
    assert "<figcaption>val/accuracy</figcaption>" in text
    assert "<table" not in text


def test_two_runs_are_heard_from_the_same_noises_with_their_figures(here, capsys):
    measured = here / "runs" / "five" / "evaluation" / "last-seed=0-evaluation" / "evaluation.json"
    measured.parent.mkdir(parents=True)
    every = {"count": 4, "frechet": {"value": 12.34, "spread": 1.0, "floor": 5.6, "floor_spread": 0.1}}
    near = {"close": 0.01, "duplicates": 0.02, "repeated": 0.03}
    measured.write_text(json.dumps({"embeddings": {"log-mel": {"all": every}}, "measurements": {}, "neighbours": near}))
    main(["compare", "runs/three", "runs/five", "--n=4", "--sampler=DDIM", "--sampler.steps=2"])
    assert "listen: compare/three-five/index.html" in capsys.readouterr().out
    home = here / "compare" / "three-five"
    text = (home / "index.html").read_text()
    for name, steps in (("three", 3), ("five", 5)):
        main(["sample", f"--ckpt=runs/{name}", "--n=4", "--sampler=DDIM", "--sampler.steps=2", f"--out={name}"])
        files = [s["file"] for s in json.loads((home / name / "sounds.json").read_text())["sounds"]]
        assert len(files) == 4
        for file in files:
            np.testing.assert_array_equal(soundfile.read(home / name / file)[0], soundfile.read(here / name / file)[0])
            assert f"{name}/{file}" in text
        assert f"<td>{steps}</td>" in text
    assert 'scope="row">val/loss</th>' in text
    assert '<th scope="row">Fréchet, log-mel</th><td>–</td><td>12.3 (floor 5.6)</td>' in text


def test_what_cannot_be_compared_or_shown_is_refused_in_a_line(capfd):
    assert "runs/three alone: name two models or more" in refusal(["compare", "runs/three"], capfd)
    assert "no run at nowhere: give its folder" in refusal(["page", "nowhere"], capfd)
    assert "--out x.txt: name the file, such as page.html" in refusal(["page", "three", "--out=x.txt"], capfd)

"""What the parsers say of bad input, provoked from them: one line, with the option and the remedy."""

import re

import pytest
from refusal import refusal

NAMES = "CLD, CosineVP, CrashSubVP"
# The function of cli/messages.py that reads it -> arguments -> the line, or its beginning; … is anything.
SAID = {
    "unknown_option": (
        ["sample", "--nn=3"],
        "unrecognized arguments: --nn=3; `diffwave-sde sample --help` lists the o",
    ),
    "unknown_option, positional": (["sample", "x"], "unrecognized arguments: x; `diffwave-sde sample --help` lists"),
    "unknown_option, in a file": (["sample", "--config=bad.yaml"], "no option nn; `diffwave-sde sample --help` lists"),
    "unknown_option, of fit": (["fit", "--config=bad.yaml"], "no option nn; `diffwave-sde fit --help` lists"),
    "missing_option": (["export", "--out=x"], "--ckpt is needed; `diffwave-sde export --help` lists the options"),
    "own_words": (["fit", "--model.sde=VP", "--model.sde.beta_min=30"], "beta_min = 30"),
    "missing_file": (["sample", "--config=none.yaml"], "--config: …none.yaml: no such file"),
    "missing_file, a folder": (["sample", "--config=."], "--config: …: not a file"),
    "option_of_a_class": (
        ["fit", "--model.sde=CLD", "--model.sde.frict=2"],
        "--model.sde: CLD has no option frict; it has mass, friction, gamma",
    ),
    "argument_of_a_class": (
        ["fit", "--config=logger.yaml"],
        "--trainer.logger: CSVLogger needs save_dir: add --trainer.logger.save_dir=...",
    ),
    "not_text, a number": (
        ["fit", "--config=name.yaml"],
        '--name: 808 is a number, not text, in YAML: write it in quotes, "808"',
    ),
    "not_text, a word": (
        ["sample", "--config=label.yaml"],
        '--label: true and false, on and off, yes and no are not text in YAML: write it in quotes, "true"',
    ),
    "wrong_type": (["sample", "--n=3.5"], "--n: '3.5' is not of type int"),
    "wrong_type, of a class": (
        ["fit", "--model.sde=VP", "--model.sde.beta_min=ab"],
        "--model.sde.beta_min: 'ab' is not of type float",
    ),
    "not_a_list": (["fit", "--model.net.channels=8"], "--model.net.channels: 8 is not a list: write [8]"),
    "unknown_class": (["fit", "--model.sde=CLDD"], f"--model.sde: no SDE called CLDD: choose one of {NAMES}"),
    "unknown_choice": (["sample", "--device=tpu"], "--device: tpu is not one of 'auto', 'cpu', 'cuda', 'mps'"),
    "no class of this program's": (["fit", "--model.net=Foo"], "--model.net: nothing called Foo; `diffwave-sde fit"),
    # Of `compatibility`, which reads YAML files first
    "not UTF-8": (["fit", "--config=latin.yaml"], "latin.yaml, line 2: not UTF-8: save the file in that encoding"),
    "no options": (
        ["sample", "--config=list.yaml"],
        "list.yaml: holds list ['a'], not options, a line each: NAME: VALUE",
    ),
}
FILES = {
    "bad.yaml": b"nn: 3\n",
    "name.yaml": b"name: 808\n",
    "label.yaml": b"label: on\n",
    "logger.yaml": b"trainer:\n  logger:\n    class_path: CSVLogger\n",
    "latin.yaml": b"name: x\nlabel: caf\xe9\n",
    "list.yaml": b"- a\n",
}


@pytest.mark.parametrize("case", SAID)
def test_a_parsers_message_is_one_line_with_the_option_and_the_remedy(case, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    arguments, begins = SAID[case]
    said = refusal(arguments, capfd)
    assert re.match("diffwave-sde: " + re.escape(begins).replace("…", ".*"), said), said

"""Configurations that chance writes: each is taken, or refused by one line that names the key and the file.

A few examples of each are in every run; `make test-slow` has the many. What is right is not trained with: whatever
gets as far as the data or the trainer has been taken.
"""

import contextlib
import functools
import io
import math
import re
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from diffwave_sde import audio, plain
from diffwave_sde.cli import kinds, main

SECONDS = 30.0  # that a refusal may take, on a busy machine
TAKEN = ("unknown dataset 'nowhere'", "no checkpoint at nowhere", "no such file: nowhere")
OPEN = {"dataset", "root", "name", "dirpath", "filename", "default_root_dir", "ckpt_path", "ckpt", "out", "init"}


def outcome(argv: list[str]) -> str:
    """What the program says as it ends with status 2; "" where it ends well. Anything else it may not do."""
    said, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(argv)
            code = 0
        except SystemExit as stop:
            code = stop.code
    assert time.monotonic() - began < SECONDS
    if not code:
        return ""
    assert code == 2
    (line,) = [line for line in said.getvalue().splitlines() if line.startswith("diffwave-sde: ")]
    assert "Traceback" not in said.getvalue()
    return "" if any(taken in line for taken in TAKEN) else line


def leaves(value, keys=()):
    """(keys, value) of all that stands in a configuration."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from leaves(one, (*keys, key))
    else:
        yield keys, value


def changed(config, keys, value):
    """A configuration of one option: the classes on the way to it, and it."""
    if not keys:
        return value
    below = config[keys[0]] if isinstance(config, dict) and keys[0] in config else {}
    kept = {"class_path": config["class_path"]} if isinstance(config, dict) and keys[0] == "init_args" else {}
    return {**kept, keys[0]: changed(below, keys[1:], value)}


def defaults(*others: str) -> list[tuple[dict, tuple]]:
    """Each option of what `fit` says by default: (the configuration, its keys)."""
    found = []
    for file in [*kinds.default_files("diffusion"), *(kinds.CONFIGS / kind for kind in others)]:
        config = yaml.safe_load(file.read_text())
        found += [(config, keys) for keys, _ in leaves(config) if "callbacks" not in keys]
    return found


OPTIONS = defaults("experiment/autoguidance.yaml", "loss/importance.yaml", "sde/cld.yaml", "sde/vdm.yaml")
names = st.from_regex(r"[a-z_]{3,9}", fullmatch=True).filter(lambda text: text not in ("nan", "inf", "yes", "null"))
odd = st.one_of(
    st.none(), st.booleans(), st.sampled_from([0, -1, -(2**31), 2**63, 10**30, 0.5, -0.1, 1e30, math.nan, math.inf]),
    names, st.just(""), st.just("a.b"), st.just("os.system"), st.just("\0"), st.just("${HOME"), st.just("é\u2028"),
    st.lists(st.sampled_from([0, -1, None, "x"]), max_size=3), st.just({}),
    st.dictionaries(names, st.just(1), max_size=2),
    st.just({"class_path": "os.system"}), st.just({"class_path": 5}), st.just({"init_args": 3}),
)  # fmt: skip


def few(count: int, slow: int):
    """The test, with a few examples, and with many where it is slow."""

    def twice(test):
        many = pytest.param(slow, marks=pytest.mark.slow)
        return pytest.mark.parametrize("examples", [count, many])(test)

    return twice


def hold(examples: int, strategy, law) -> None:
    """A law for so many values of a strategy; the same ones each time."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    fixed = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": quiet}
    settings(max_examples=examples, **fixed)(given(strategy)(law))()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(here, verb, config, keys, *more):
    """One option in a file: taken, or refused by its key and its file."""
    (here / "odd.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    line = outcome([verb, "--config=odd.yaml", *more])
    if line:
        assert "odd.yaml" in line, (config, line)
        named = [key for key in keys if key not in ("class_path", "init_args")]
        assert any(key in line for key in named), (config, line)
    return line


@few(4, 600)
def test_an_odd_value_of_fit_in_a_file_is_taken_or_named(examples, here):
    def law(case):
        (config, keys), value = case
        # Only memory tells that a network is too large, and a test is not to use it up.
        if "net" in keys and isinstance(value, int | float) and abs(value) > 1e6:
            return
        check(here, "fit", changed(config, keys, value), keys, "--data.dataset=nowhere", "--trainer.accelerator=cpu")

    hold(examples, st.tuples(st.sampled_from(OPTIONS), odd), law)


@pytest.mark.parametrize(
    ("place", "config"),
    [
        ("data.mu", {"data": {"mu": None}}),
        ("model.guidance.weight", {"model": {"guidance": {"weight": None}}}),
        ("model.net.kernel", {"model": {"net": {"init_args": {"kernel": None}}}}),
        ("model.optimizer.lr", {"model": {"optimizer": {"init_args": {"lr": None}}}}),
    ],
)
def test_a_null_where_none_may_be_is_named_however_deep_it_stands(place, config, here):
    (here / "odd.yaml").write_text(yaml.safe_dump(config))
    said = outcome(["fit", "--config=odd.yaml", "--data.dataset=nowhere"])
    assert f"--{place}: null is no value; leave it out (in odd.yaml)" in said


def test_a_mapping_in_the_place_of_a_list_is_named(here):
    assert "odd.yaml" in check(here, "kit", {"format": {"class_path": "os.system"}}, ("format",), "--ckpt=nowhere")


@few(2, 100)
def test_a_key_that_there_is_not_is_named(examples, here):
    def law(case):
        (config, keys), name = case
        keys = (*keys[:-1], f"{name}_x")
        assert check(here, "fit", changed(config, keys, 1), keys, "--data.dataset=nowhere")

    hold(examples, st.tuples(st.sampled_from(OPTIONS), names), law)


VERBS = {
    "sample": [("--ckpt=nowhere",), "n", "seed", "label", "batch_size", "subtype", "device", "clip", "sampler"],
    "evaluate": [("--ckpt=nowhere",), "n", "seed", "batch_size", "resamples", "max_sounds", "device"],
    "kit": [("--ckpt=nowhere",), "kick", "snare", "format", "seed", "velocities"],
    "likelihood": [("--ckpt=nowhere",), "data", "batch_size", "seed", "device"],
    "export": [("--ckpt=nowhere",), "format", "dtype", "out"],
    "schedule": [("--ckpt=nowhere",), "steps", "seed", "batch_size"],
}  # fmt: skip


@few(40, 1_500)
def test_an_odd_value_of_a_verb_in_a_file_is_taken_or_named(examples, here):
    def law(case):
        (verb, key), value = case
        check(here, verb, {key: value}, (key,), *VERBS[verb][0])

    options = [(verb, key) for verb, (_, *keys) in VERBS.items() for key in keys]
    hold(examples, st.tuples(st.sampled_from(options), odd), law)


@few(40, 1_500)
def test_an_odd_value_on_the_command_line_is_taken_or_named(examples, here):
    text = st.one_of(st.text(max_size=8), odd.map(str)).filter(lambda text: "\0" not in text)

    def law(case):
        (verb, key), value = case
        line = outcome([verb, *VERBS[verb][0], f"--{key}={value}"])
        assert not line or key in line

    options = [(verb, key) for verb, (_, *keys) in VERBS.items() for key in keys]
    hold(examples, st.tuples(st.sampled_from(options), text), law)


@few(100, 5_000)
def test_bytes_that_are_no_configuration_are_refused_by_the_file(examples, here):
    written = yaml.safe_dump({"n": 3, "sampler": {"class_path": "DDIM", "init_args": {"steps": 3}}}).encode()

    def law(case):
        data, at = case
        (here / "odd.yaml").write_bytes(written[:at] + data + written[at:])
        line = outcome(["sample", "--config=odd.yaml", "--ckpt=nowhere"])
        assert not line or "odd.yaml" in line

    hold(examples, st.tuples(st.binary(min_size=1, max_size=20), st.integers(0, len(written))), law)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
FILES = {
    "bomb": (BOMB, "stands for more than 100,000 values"),
    "itself": ("model: &a\n  b: *a\n", "nested deeper"),
    "deep": ("a: " + "[" * 3_000 + "]" * 3_000, "nested deeper"),
    "tag": ("n: !!python/object/apply:os.system [ls]\n", "line 1: could not determine a constructor for the tag"),
    "zero": ("n: 3\nm\0: 4\n", "line 2: a character that no text has"),
    "twice": ("n: 3\nn: 4\n", "line 2: n stands twice"),
    "digits": (f"n: {'9' * 5_000}\n", "no YAML of plain values"),
    "empty": ("# n: 3\n", "holds nothing"),
    "number": ("3: 4\n", 'the key 3 is not text: write it in quotes, "3"'),
    "two": ("n: 3\n---\nn: 4\n", "line 2: but found another document"),
    "date": ("n: 2020-13-45\n", "no YAML of plain values"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_would_never_end_or_means_nothing_is_refused_at_once(case, here):
    text, why = FILES[case]
    (here / "odd.yaml").write_text(text)
    began = time.monotonic()
    assert re.search(rf"odd\.yaml(: |, ){re.escape(why)}", outcome(["sample", "--config=odd.yaml", "--ckpt=nowhere"]))
    assert time.monotonic() - began < 10
    with pytest.raises(ValueError, match="odd"):
        plain.read("odd.yaml") if case not in ("empty", "number") else plain.parse("[" * 99, "odd")


def test_files_that_are_none_are_not_waited_for(here):
    assert "/dev/zero: not a file" in outcome(["sample", "--config=/dev/zero"])
    import os

    os.mkfifo(here / "pipe.yaml")
    assert "pipe.yaml: not a file" in outcome(["sample", "--config=pipe.yaml"])


TRAINER = (
    "max_steps", "max_epochs", "devices", "accelerator", "precision", "val_check_interval", "log_every_n_steps",
    "gradient_clip_val", "accumulate_grad_batches", "limit_val_batches", "limit_train_batches", "max_time", "strategy",
    "profiler", "num_sanity_val_steps", "check_val_every_n_epoch", "overfit_batches", "gradient_clip_algorithm",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("examples", [20])
def test_an_odd_value_of_the_trainer_is_taken_or_named(examples, here, monkeypatch):
    for i in range(10):
        audio.write(here / "sounds" / f"{i}.wav", 0.5 * audio.from_int16(audio_noise(i)))
    monkeypatch.setattr(Trainer, "fit", functools.wraps(Trainer.fit)(lambda *args, **kwargs: None))  # the CLI reads it
    small = ["--data.dataset=sounds", "--data.length=1000", "--data.workers=0", "--trainer.logger=false"]

    def law(case):
        key, value = case
        check(here, "fit", {"trainer": {key: value}}, (key,), *small)

    hold(examples, st.tuples(st.sampled_from(TRAINER), odd), law)


def audio_noise(seed: int):
    import numpy as np

    return np.random.default_rng(seed).integers(-9_000, 9_000, 2_000).astype(np.int16)

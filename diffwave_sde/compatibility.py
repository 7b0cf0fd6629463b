"""Old names that stand in people's YAML files, commands and checkpoints. Each goes on working for one version.

The tables below say what an old name is called now. `renew` puts the new names into a configuration, `renew_arguments`
into a command line and `renew_weights` into the weights of a checkpoint; `announce` tells the user in one line each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from diffwave_sde import plain

CLASSES: dict[str, str] = {
    "Preferred": "DefaultSampler",
    "Listening": "SampleLogger",
    "Scoring": "FrechetScore",
}
"""Old name of a class -> its new name. The module of the new one may differ: the name alone is looked up."""

OPTIONS: dict[str, dict[str, str]] = {
    "loss": {"strata": "time_sampling"},
    "weight": {"tilt": "weight_fn"},
    "guidance": {
        "low": "sigma_min",
        "high": "sigma_max",
        "auto_low": "auto_sigma_min",
        "auto_high": "auto_sigma_max",
    },
    "sampler": {
        "quiet": "eta_low_noise",
        "below": "low_noise_sigma",
        "warm": "second_order_start",
        "released": "reference_coefficients",
        "spread": "variance_share",
        "absolute": "atol",
        "relative": "rtol",
        "first": "initial_step",
        "calls": "max_nfe",
    },
}
"""Where an option stands (`sampler`, `guidance`, `weight`, ...: the key above it) -> its old name -> its new name."""

VERB_OPTIONS: dict[str, dict[str, str]] = {"evaluate": {"rounds": "resamples", "most": "max_sounds"}}
"""Verb of the command line -> old name of an option of its own -> its new name."""

FILES: dict[str, str] = {"sde/line.yaml": "sde/rectified-flow.yaml"}
"""Old name of a file in configs/ -> its new name."""

_NET = r"^((?:denoiser\.)?(?:weak\.)?net\.)"
_BLOCK = r"(?=\.\d+\.(?:before\.\d|norm|film|after\.\d|skip(?:\.\d)?)\.(?:weight|bias)$)"
_CONV = r"(?=\.\d+\.(?:weight|bias)$)"

WEIGHTS: tuple[tuple[str, str], ...] = (
    # Of the U-Net, by place and form: a network of one's own may have parts of the same names.
    (_NET + "inward" + _BLOCK, r"\1mid_in"),
    (_NET + "outward" + _BLOCK, r"\1mid_out"),
    *((_NET + "shrink" + form, r"\1downsample") for form in (_CONV, _BLOCK)),
    *((_NET + "grow" + form, r"\1upsample") for form in (_CONV, _BLOCK)),
    (_NET + "enter" + _CONV, r"\1pyramid_in"),
    (_NET + "see" + _CONV, r"\1level_in"),
    (_NET + r"say(?=\.\d+\.[02]\.(?:weight|bias)$)", r"\1level_head"),
)
"""Old name of a weight, a regular expression -> what it is replaced by."""

CLASS_KEYS = ("class_path", "sampler", "callbacks", "callbacks+")
"""The keys whose values are classes with an old name: elsewhere such a word is a label, or a folder."""

_announced: set[tuple[str, str]] = set()


def announce(old: str, new: str) -> None:
    """Tell, once and in one line, that a name is an old one."""
    if (old, new) not in _announced:
        _announced.add((old, new))
        print(f"diffwave-sde: {old} is called {new} now; the old name works for this version only", file=sys.stderr)


def renew(config: Any, slot: str = "") -> Any:
    """A configuration of plain types under its new names.

    Args:
        config: as YAML gives it.
        slot: the key that it stands under.
    """
    if isinstance(config, list):
        return [renew(one, slot) for one in config]
    if not isinstance(config, Mapping):
        return _class(config) if isinstance(config, str) and slot in CLASS_KEYS else config
    options = OPTIONS.get(slot, {})
    new = {}
    for key, value in config.items():
        if key == "init_args" and "class_path" in config:
            new[key] = renew(value, slot)
        elif key in options:
            announce(f"{slot}.{key}", f"{slot}.{options[key]}")
            new[options[key]] = renew(value, options[key])
        else:
            new[key] = renew(value, str(key))
    return new


def renew_arguments(argv: list[str]) -> list[str]:
    """A command line, its verb first, under the new names; so are the YAML files that it names by `--config`."""
    verb = VERB_OPTIONS.get(argv[0], {}) if argv else {}
    new = [_argument(one, verb) for one in argv]
    for i, (option, value) in enumerate(pairwise(argv), 1):
        if option.startswith("--") and "=" not in option and _key(option) in CLASS_KEYS:
            new[i] = _class(value)
    for i, text in enumerate(new):
        if text == "--config" and i + 1 < len(new):
            new[i + 1] = _contents(new[i + 1], verb)
        elif text.startswith("--config="):
            new[i] = "--config=" + _contents(text.removeprefix("--config="), verb)
    return new


def renew_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint under their new names. Not announced: nobody types them."""

    def name(old: str) -> str:
        for pattern, new in WEIGHTS:
            old = re.sub(pattern, new, old)
        return old

    return {name(key): value for key, value in state.items()}


def renew_checkpoint(state: dict[str, Any]) -> None:
    """Put the weights of a checkpoint, the averaged and the raw ones, under their new names, in place."""
    for part in ("state_dict", "current_model_state"):
        if part in state:
            state[part] = renew_weights(state[part])


def _class(text: str) -> str:
    """A class's new name, by itself or at the end of an import path of this package."""
    module, dot, name = text.rpartition(".")
    if name not in CLASSES or (module and not module.startswith("diffwave_sde")):
        return text
    announce(name, CLASSES[name])
    # Of a path the package stays, which offers the class whatever file it is in.
    return ".".join(module.split(".")[:2]) + dot + CLASSES[name]


def _argument(text: str, verb: Mapping[str, str]) -> str:
    """One argument of a command line."""
    if not text.startswith("--"):
        return _file(text)
    option, equals, value = text[2:].partition("=")
    keys = option.split(".")
    if len(keys) == 1 and option in verb:
        announce(f"--{option}", f"--{verb[option]}")
        keys = [verb[option]]
    slot = next((key for key in reversed(keys[:-1]) if key != "init_args"), "")
    name = OPTIONS.get(slot, {}).get(keys[-1])
    if name:
        announce(f"{slot}.{keys[-1]}", f"{slot}.{name}")
        keys = [*keys[:-1], name]
    value = _class(value) if keys[-1] in CLASS_KEYS else _file(value)
    return f"--{'.'.join(keys)}{equals}{value}"


def _key(option: str) -> str:
    """The last key of an option."""
    return option.removeprefix("--").rpartition(".")[2]


def _contents(file: str, verb: Mapping[str, str]) -> str:
    """A YAML file's name; if there is an old name in the file, what it says under the new ones, as YAML.

    Raises:
        ValueError: if the file is no YAML, or holds no options; it names the file and the line.
    """
    try:
        there = Path(file).exists() and not Path(file).is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        return file  # whoever reads it says what is wrong
    old = plain.read(file)
    if old is None:
        raise ValueError(f"{file}: holds nothing, not options, a line each: NAME: VALUE")
    if not isinstance(old, dict):
        raise ValueError(f"{file}: holds {type(old).__name__} {old!r:.40}, not options, a line each: NAME: VALUE")
    new = renew(old)
    if isinstance(new, dict):
        for key in verb.keys() & new.keys():
            announce(f"--{key}", f"--{verb[key]}")
            new[verb[key]] = new.pop(key)
    return file if new == old else yaml.safe_dump(new, sort_keys=False)


def _file(text: str) -> str:
    for old, new in FILES.items():
        # A file of that name that is there is the user's own.
        if text.endswith(old) and not Path(text).is_file():
            announce(old, new)
            return text.removesuffix(old) + new
    return text

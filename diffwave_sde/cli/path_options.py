"""Options that are paths, as a person types them: `~` and `$VARS` are expanded, wherever such an option stands."""

from __future__ import annotations

import typing
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from diffwave_sde import paths

KEYS = frozenset(
    (
        *(
            "ckpt",
            "ckpt_path",
            "init",
            "out",
            "weak",
            "classifier",
            "real",
            "generated",
            "evaluation",
            "watch",
            "audio",
            "run",
        ),
        *("default_root_dir", "dirpath", "save_dir", "folder", "file", "teacher", "audio"),
    )
)
"""Names of such options, of verbs and classes: trainer, callbacks, loggers, grids, losses. A data set's are its own."""


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The options of a verb, their paths expanded.

    Raises:
        ArgumentError: if one is not understood, or is null where a value is needed, which jsonargparse lets pass.
        ValueError: as `expand_options`.
    """
    try:
        config = parser.parse_args(arguments)
    except RuntimeError:  # of jsonargparse, where a file has a mapping in the place of a list
        several = [f"--{action.dest}" for action in parser._actions if action.nargs in ("+", "*")]
        raise ValueError(f"{', '.join(several)}: a list of values is wanted there, [a, b]") from None
    for action in parser._actions:
        # Where a class has a place a null is one that is not given; of other types each says whether it takes one.
        typed = getattr(action, "_typehint", action.type)
        missing = typed is not None and action.default is not None and config.get(action.dest, 0) is None
        if missing and type(None) not in typing.get_args(typed):
            raise ArgumentError(action, f"--{action.dest}: null is no value; leave it out for {action.default}")
    return expand_options(config)


def expand_options(config: Any) -> Any:
    """A parsed configuration, its paths expanded in place.

    Raises:
        ValueError: if a variable is not set; it names the option.
    """
    if isinstance(config, list):
        for one in config:
            expand_options(one)
    elif isinstance(config, (Namespace, dict)):
        for key, value in list(vars(config).items() if isinstance(config, Namespace) else config.items()):
            if isinstance(value, str) and key in KEYS:
                config[key] = expanded(f"--{key}", value)
            else:
                expand_options(value)
    return config


def expand_files(argv: list[str]) -> list[str]:
    """A command line, with the files of `--config` expanded."""
    new = list(argv)
    for i, text in enumerate(argv):
        if text == "--config" and i + 1 < len(argv):
            new[i + 1] = expanded(text, argv[i + 1])
        elif text.startswith("--config="):
            new[i] = "--config=" + expanded("--config", text.removeprefix("--config="))
    return new


def expanded(option: str, text: str) -> str:
    """A path as text; left to the letter where there is nothing to expand."""
    if not text.startswith("~") and not {"$", "\\"} & set(text):
        return text
    try:
        return str(paths.expand(text))
    except ValueError as error:
        raise ValueError(f"{option} {error}") from None

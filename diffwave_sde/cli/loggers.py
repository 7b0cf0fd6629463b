"""Loggers by one flag: `--trainer.logger=TensorBoardLogger` and `CSVLogger` write into the run's folder."""

from __future__ import annotations

import importlib.util

OPTION = "--trainer.logger"

PLACES: dict[str, dict[str, str]] = {
    "CSVLogger": {"save_dir": "", "name": "csv"},
    "TensorBoardLogger": {"save_dir": "", "name": "tensorboard", "version": ""},
}
"""Where those of Lightning's loggers write that have no default for it; an empty save_dir is the run's folder."""


def placed(argv: list[str]) -> list[str]:
    """A command line, in which a logger that is named alone writes into the run's folder.

    Raises:
        ValueError: if the logger's library is not installed.
    """
    new: list[str] = []
    for k, argument in enumerate(argv):
        new.append(argument)
        option, _, value = argument.partition("=")
        if not value and k and argv[k - 1] == OPTION:
            option, value = OPTION, argument
        name = value.rpartition(".")[2]
        if option != OPTION or name not in PLACES:
            continue
        if name == "TensorBoardLogger" and importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                f"{OPTION} {name} needs TensorBoard, which is not installed: pip install -c constraints.txt tensorboard"
            )
        given = {text.partition("=")[0] for text in argv}
        places = {f"{OPTION}.{key}": place for key, place in PLACES[name].items()}
        new += [f"{key}={place}" for key, place in places.items() if key not in given]
    return new

"""What can be trained, and what a training is when nothing is said: its YAML files, its network, its precision."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
import yaml

from diffwave_sde import checkpoint, plain
from diffwave_sde.autoencoder_module import AutoencoderModule
from diffwave_sde.cascade_module import CascadeModule
from diffwave_sde.classifier_module import ClassifierModule
from diffwave_sde.cli.path_options import expanded
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.module import DiffusionModule
from diffwave_sde.training import BaseTrainingModule

KINDS: dict[str, type[BaseTrainingModule]] = {
    module.kind: module for module in (DiffusionModule, ClassifierModule, CascadeModule, AutoencoderModule)
}
"""What can be trained."""

_HERE = Path(__file__).resolve().parents[1]
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"
"""The project's YAML files: inside an installed package, beside the package in a checkout."""


def default_network() -> str:
    """`base` with a CUDA GPU, `tiny` without; a name in configs/network and in configs/classifier."""
    return "base" if torch.cuda.is_available() else "tiny"


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` where products of bfloat16 are fast, `32-true` elsewhere; as the trainer calls them."""
    gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if bfloat16_is_fast("cuda" if gpu else "cpu") else "32-true"


def default_files(kind: str) -> list[Path]:
    """The YAML files of defaults for what is trained, the general ones first."""
    machine = f"{default_network()}.yaml"
    if kind == "diffusion":
        return [CONFIGS / "base.yaml", CONFIGS / "network" / machine]
    return [CONFIGS / "base.yaml", CONFIGS / "experiment" / f"{kind}.yaml", CONFIGS / kind / machine]


def defaults(kind: str) -> list[str]:
    """What these files say, as arguments."""
    base, *others = default_files(kind)
    if kind == "diffusion":
        return configs(base, *others)
    # Of the model's options in base.yaml those that every kind has; the network and the loss are other classes.
    options = yaml.safe_load(base.read_text(encoding="utf-8"))
    shared = inspect.signature(KINDS[kind]).parameters.keys() - KINDS[kind].apart
    options["model"] = {name: value for name, value in options["model"].items() if name in shared}
    return ["--config", yaml.safe_dump({**options, "kind": kind}, sort_keys=False), *configs(*others)]


def kind_asked(argv: list[str]) -> str:
    """What the arguments say is to be trained: `--kind`, a file's `kind`, or the checkpoint's path; the last counts.

    A run that is meant by its name alone (`--ckpt_path last`) is looked up later.
    """
    kind = "diffusion"
    for option, value in _options(argv):
        if option == "--kind":
            kind = value
        elif option == "--config":
            kind = _kind_in(value) or kind
        elif option == "--ckpt_path" and value not in ("last", "best", "null"):
            try:
                kind = checkpoint.kind_of(checkpoint.find(expanded(option, value)))
            except (OSError, ValueError):
                continue  # told of when it is resolved
    return kind if kind in KINDS else "diffusion"  # the parser tells which there are


class OtherKind(ValueError):
    """What is to be trained is of another kind than the parser was made for.

    Args:
        kind: the one that it is of.
        why: a line for whoever said both.
    """

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind = kind


def configs(*paths: Path | str) -> list[str]:
    """Options that name YAML files, or hold what would be in one."""
    return [argument for path in paths for argument in ("--config", str(path))]


def _options(argv: list[str]) -> list[tuple[str, str]]:
    """The options of a command line with their values, as far as it can be told without knowing them."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    return [
        (option, value) if equals else (text, following)
        for text, following in pairs
        for option, equals, value in [text.partition("=")]
        if text.startswith("--")
    ]


def _kind_in(config: str) -> str | None:
    """What a YAML file, or the text of one, says is to be trained."""
    try:
        options = plain.parse(config, "") if "\n" in config else plain.read(config)
    except (OSError, ValueError):
        return None  # whoever reads it says what is wrong
    return options.get("kind") if isinstance(options, dict) else None

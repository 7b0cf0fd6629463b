"""`fit`, `validate`, `test` and `predict`: Lightning's command line, with a network that fits the machine."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from diffwave_sde import (  # noqa: F401  callbacks and distillation are values on the command line
    __version__,
    audio,
    callbacks,
    checkpoint,
    distillation,
)
from diffwave_sde.atomic import atomic_write
from diffwave_sde.callbacks.last_checkpoint import interrupted
from diffwave_sde.cli import runs
from diffwave_sde.cli.classes import class_of
from diffwave_sde.cli.path_options import expand_options
from diffwave_sde.compatibility import renew_arguments
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.module import DiffusionModule
from diffwave_sde.names import listed
from diffwave_sde.resume import match_data

_HERE = Path(__file__).resolve().parents[1]
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"
"""The project's YAML files: inside an installed package, beside the package in a checkout."""


def default_network() -> str:
    """`base` with a CUDA GPU, `tiny` without."""
    return "base" if torch.cuda.is_available() else "tiny"


def default_precision(accelerator: str) -> str:
    """`bf16-mixed` where products of bfloat16 are fast, `32-true` elsewhere; as the trainer calls them."""
    gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if bfloat16_is_fast("cuda" if gpu else "cpu") else "32-true"


class SaveConfig(SaveConfigCallback):
    """Writes RUN/config.yaml; one that differs, of an earlier start of the run, is kept beside it."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, *args: Any, **kwargs: Any):
        super().__init__(parser, config, *args, save_to_log_dir=False, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        text = self.parser.dump(self.config, skip_none=False)
        path = Path(trainer.default_root_dir) / "config.yaml"
        if path.exists() and path.read_text() != text:
            number = 1
            while (older := path.with_name(f"config.{number}.yaml")).exists():
                number += 1
            path.rename(older)
        with atomic_write(path) as temporary:
            temporary.write_text(text)


class CLI(LightningCLI):
    """Lightning's command line for DiffusionModule and AudioDataModule.

    A first pass over the arguments finds out whether a run goes on; if so its own configuration stands in for the
    project's defaults, so that going on needs nothing said twice.
    """

    def __init__(self, argv: list[str]):
        self.verb, rest = argv[0], argv[1:]
        self.argv = [
            self.verb,
            *_configs(CONFIGS / "base.yaml", CONFIGS / "network" / f"{default_network()}.yaml"),
            *rest,
        ]
        self.rest = rest
        super().__init__(
            DiffusionModule,
            AudioDataModule,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "exit_on_error": False,
                "prog": "diffwave-sde",
                **{v: {"exit_on_error": False} for v in self.subcommands()},
            },
            args=self.argv,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="the run's name: it lives in runs/NAME (default: that of the data)",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = expand_options(parser.parse_args(args))
        options = self.config[self.verb]
        self.name = runs.run_name(options.name) if options.name else runs.name_of(options.data.dataset)
        self.folder: Path | None = None
        self.teacher: str | None = None
        if not options.ckpt_path:
            self._follow_teacher(parser)
            return
        ckpt = runs.resolve(options.ckpt_path, self.name)
        self.folder = runs.folder_of(ckpt)
        if self.folder is not None:
            # An earlier version may have written its configuration.
            self.argv = renew_arguments([self.verb, *_configs(self.folder / "config.yaml"), *self.rest])
            self.config = expand_options(parser.parse_args(self.argv))
        self.config[self.verb].ckpt_path = str(ckpt)

    def _follow_teacher(self, parser: LightningArgumentParser) -> None:
        """If the loss has a teacher, let its network, process and clips stand in for the project's defaults."""
        loss = self.config[self.verb].model.loss
        self.teacher = loss.init_args.get("teacher") if self.verb == "fit" and loss is not None else None
        if self.teacher is None:
            return
        recipe = checkpoint.read(checkpoint.find(self.teacher))[checkpoint.KEY]
        if "config" not in recipe:
            raise ValueError(f"--model.loss.teacher {self.teacher} does not say what it is: train it through `fit`")
        model, data = recipe["config"]["model"], recipe["config"]["data"]
        student = {
            "model": {key: model[key] for key in ("net", "sde", "parametrization") if model.get(key) is not None},
            "data": {key: data[key] for key in ("length", "mu") if data.get(key) is not None},
        }
        defaults = self.argv[: len(self.argv) - len(self.rest)]
        self.argv = [*defaults, "--config", yaml.safe_dump(student), *self.rest]
        self.config = expand_options(parser.parse_args(self.argv))

    def before_instantiate_classes(self) -> None:
        options = self.config[self.verb]
        data = AudioDataModule(**vars(options.data.clone()))
        # Made once for its complaints, before an hour goes into a store that a mistyped model will not use.
        _fill(options.model, inputs=_blocks(options.model.sde))
        checkpoint.build(self._plain(options)["model"], DiffusionModule)
        # The store comes next: its classes are the network's.
        data.prepare_data()
        data.setup("fit")
        _fill(options.model, classes=len(data.labels))
        given = options.trainer.get("default_root_dir")
        if given:
            folder = Path(given)
        elif self.folder is not None:
            folder = self.folder
        elif self.verb == "fit" and not options.trainer.get("fast_dev_run"):
            folder = runs.claim(self.name)
        else:
            folder = Path(".")
        options.trainer.default_root_dir = str(folder)
        if options.trainer.get("precision") is None:
            options.trainer.precision = default_precision(str(options.trainer.accelerator))
        for switch, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", ModelCheckpoint)):
            if options.trainer.get(switch) is False and options.trainer.callbacks:
                kept = [c for c in options.trainer.callbacks if not issubclass(class_of(c.class_path), kind)]
                options.trainer.callbacks = kept
        for callback in options.trainer.callbacks or []:
            if issubclass(class_of(callback.class_path), ModelCheckpoint):
                _place(callback.init_args, folder / "checkpoints")
        for logger in _loggers(options.trainer.logger):
            for key, value in {"save_dir": str(folder), "name": folder.name}.items():
                if key in logger.init_args and logger.init_args[key] is None:
                    logger.init_args[key] = value
        self.labels = data.labels
        if self.verb == "fit":
            network = options.model.net.get("class_path", "network").rsplit(".", 1)[-1]
            rank_zero_info(
                f"{'CUDA GPU' if torch.cuda.is_available() else 'No CUDA GPU'}: defaults of "
                f"configs/network/{default_network()}.yaml; training a {network} on {len(data.store)} clips of "
                f"{listed(data.labels)} in {options.trainer.precision}; the run is {folder}/"
            )

    def _plain(self, options: Namespace) -> dict[str, Any]:
        """A configuration in plain types."""
        return yaml.safe_load(self._parser(self.verb).dump(options, skip_none=False))

    def after_instantiate_classes(self) -> None:
        dump = self._plain(self.config[self.verb])
        data = self.datamodule
        if self.teacher is not None:
            match_data(checkpoint.read(checkpoint.find(self.teacher))[checkpoint.KEY], data)
            self.labels = data.labels
        self.model.metadata = {
            "config": {"model": dump["model"], "data": dump["data"]},
            "labels": list(self.labels),
            "rate": data.rate,
            "length": data.length,
            "mu": data.mu,
            "licences": data.licences,
            "version": __version__,
        }


def run(argv: list[str]) -> None:
    """Run one of Lightning's verbs."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    warnings.filterwarnings("ignore", message=".*not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda line: "litlogger" not in line.getMessage()
    )
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        trainer = CLI(argv).trainer
        if interrupted(trainer):
            raise KeyboardInterrupt
    finally:
        runs.release()


def _configs(*paths: Path) -> list[str]:
    return [argument for path in paths for argument in ("--config", str(path))]


def _blocks(sde: Namespace | None) -> int:
    """The number of blocks of the process that a configuration names."""
    return class_of(sde.class_path).blocks if sde is not None else 1


def _fill(model: Namespace, **values: int) -> None:
    """Give the null ones of `values` in a model's networks their value."""
    for network in (model.net, model.weak):
        for key, value in values.items() if network is not None else ():
            if key in network.init_args and network.init_args[key] is None:
                network.init_args[key] = value


def _place(options: Namespace, folder: Path) -> None:
    """Let a ModelCheckpoint save into a folder, under names without another folder for the / of a metric."""
    if options.dirpath is None:
        options.dirpath = str(folder)
    metrics = re.findall(r"\{([^:}]*)", options.get("filename") or "")
    if options.get("auto_insert_metric_name") and any("/" in metric for metric in metrics):
        options.filename, options.auto_insert_metric_name = checkpoint.flat_filename(options.filename), False


def _loggers(logger: Any) -> list[Namespace]:
    found = logger if isinstance(logger, list) else [logger]
    return [one for one in found if hasattr(one, "class_path")]

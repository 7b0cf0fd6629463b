"""`fit`, `validate`, `test` and `predict`: Lightning's command line, with a network that fits the machine.

It trains models of sounds, of one network or in stages, classifiers and autoencoders: `--kind`, or a YAML file that
says so, or the checkpoint that is gone on with, tells which.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import warnings
from pathlib import Path
from typing import Any, Literal

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
    cascade,
    checkpoint,
    distillation,
    plain,
    trust,
)
from diffwave_sde.atomic import atomic_write
from diffwave_sde.callbacks.last_checkpoint import interrupted
from diffwave_sde.cli import loggers, runs
from diffwave_sde.cli.classes import class_of
from diffwave_sde.cli.kinds import (
    CONFIGS,
    KINDS,
    OtherKind,
    configs,
    default_files,
    default_precision,
    defaults,
    kind_asked,
)
from diffwave_sde.cli.nulls import refuse_nulls
from diffwave_sde.cli.path_options import expand_options
from diffwave_sde.compatibility import renew_arguments
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.finetuning import Start, told
from diffwave_sde.model import KEY
from diffwave_sde.names import listed
from diffwave_sde.resume import match_data


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
    """Lightning's command line for a module of a kind and AudioDataModule.

    A first pass over the arguments finds out whether a run goes on; if so its own configuration stands in for the
    project's defaults, so that going on needs nothing said twice. So does that of the model that `--init` starts from,
    with the defaults of fine-tuning.
    """

    def __init__(self, argv: list[str], kind: str | None = None):
        self.verb, rest = argv[0], loggers.placed(argv[1:])
        self.kind = kind or kind_asked(rest)
        self.argv = [self.verb, *defaults(self.kind), *rest]
        self.rest = rest
        super().__init__(
            KINDS[self.kind],
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
        parser.add_argument(
            "--init",
            type=str | None,
            default=None,
            help="fine-tune this model: a run's folder, a checkpoint, an exported model, or the name of one that comes "
            "with the program, such as drums; its network and process are taken, and classes of like names "
            "(default: start from nothing)",
        )
        parser.add_argument(
            "--kind",
            type=Literal[tuple(KINDS)],
            default="diffusion",
            help="what is trained: diffusion, a model of sounds; cascade, one in stages of rising rate; classifier, "
            "what tells noised sounds apart, for classifier guidance; or autoencoder, by whose latents a model may be "
            "one of latents (their options: --kind classifier --help)",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = expand_options(parser.parse_args(args))
        options = self.config[self.verb]
        if options.kind != self.kind:
            raise OtherKind(
                options.kind, f"--kind says {options.kind}, and the checkpoint is of a {self.kind}: leave --kind out"
            )
        ending = "" if self.kind == "diffusion" else f"-{self.kind}"
        self.name = runs.run_name(options.name) if options.name else runs.name_of(options.data.dataset) + ending
        self.folder: Path | None = None
        self.teacher: str | None = None
        self.latent: checkpoint.LoadedAutoencoder | None = None
        self.start: Start | None = None
        if options.init and options.ckpt_path:
            raise ValueError(
                f"--init {options.init} starts a training, and --ckpt_path {options.ckpt_path} goes on with one: give "
                "only one of them; a fine-tuning that was stopped goes on with --ckpt_path alone"
            )
        if options.init and self.kind != "diffusion":
            raise ValueError(f"--init {options.init} starts from a model of sounds; a {self.kind} starts from nothing")
        if options.init:
            self.start = Start.read(options.init)
            model = yaml.safe_dump(self.start.options)
            self.argv = [
                self.verb,
                *configs(CONFIGS / "base.yaml", CONFIGS / "init.yaml", model),
                *self.rest,
            ]
            self.config = expand_options(parser.parse_args(self.argv))
            mu = self.config[self.verb].data.mu
            if mu != self.start.recipe["mu"]:
                raise ValueError(
                    f"--init {options.init} was trained with data.mu = {self.start.recipe['mu']:g}, and {mu:g} is "
                    "asked for: leave data.mu out, or start from a model of that companding"
                )
        if not options.ckpt_path and self.verb == "fit" and (requeued := runs.requeued(self.name)):
            rank_zero_info(f"the job is back from SLURM's queue: going on with {requeued}")
            options.ckpt_path = str(requeued)
        if not options.ckpt_path:
            self._follow_teacher(parser)
            self._follow_latent(parser)
            return
        ckpt = runs.resolve(options.ckpt_path, self.name, self.kind)
        if (kind := checkpoint.kind_of(ckpt)) != self.kind:
            raise OtherKind(kind, f"{ckpt} is of the kind {kind}, not {self.kind}: leave --kind out")
        self.folder = runs.folder_of(ckpt)
        if self.folder is not None:
            trust.check(plain.read(self.folder / "config.yaml"), self.folder / "config.yaml")
            # An earlier version may have written its configuration.
            self.argv = renew_arguments([self.verb, *configs(self.folder / "config.yaml"), *self.rest])
            self.config = expand_options(parser.parse_args(self.argv))
            own = checkpoint.read(ckpt)[KEY].get("config", {}).get("model", {}).get("latent")
            if (said := self.config[self.verb].model.get("latent")) != own:
                raise ValueError(
                    f"--model.latent {said}: {ckpt} holds the autoencoder that it goes on with; leave it out"
                )
        self.config[self.verb].ckpt_path = str(ckpt)

    def _follow_teacher(self, parser: LightningArgumentParser) -> None:
        """If the loss has a teacher, let its network, process and clips stand in for the project's defaults."""
        loss = self.config[self.verb].model.loss
        teaches = self.verb == "fit" and loss is not None
        self.teacher = (loss.get("init_args") or {}).get("teacher") if teaches else None
        if self.teacher is None:
            return
        recipe = checkpoint.read(checkpoint.find(self.teacher))[KEY]
        if "config" not in recipe:
            raise ValueError(f"--model.loss.teacher {self.teacher} does not say what it is: train it through `fit`")
        model, data = recipe["config"]["model"], recipe["config"]["data"]
        trust.check(model, f"--model.loss.teacher {self.teacher}")
        student = {
            "model": {key: model[key] for key in ("net", "sde", "parametrization") if model.get(key) is not None},
            "data": {key: data[key] for key in ("length", "mu") if data.get(key) is not None},
        }
        if isinstance(loss.init_args.get("guidance"), (list, tuple)):
            student["model"]["net"].setdefault("init_args", {})["guidance"] = True
        self._stand_in(parser, student)

    def _follow_latent(self, parser: LightningArgumentParser) -> None:
        """If the model is to be one of latents, let their autoencoder stand in, and a front end that takes them."""
        path = self.config[self.verb].model.get("latent")
        if path is None:
            return
        if self.start is not None or self.teacher is not None:
            other = "--init" if self.start is not None else "--model.loss.teacher"
            raise ValueError(f"--model.latent {path} and {other} do not go together yet: give only one of them")
        try:
            self.latent = loaded = checkpoint.load_autoencoder(path)
        except (OSError, ValueError) as error:
            raise type(error)(f"--model.latent: {error}") from None
        one = loaded.module
        found = checkpoint.read(loaded.path)[KEY]["config"]["model"]["autoencoder"]
        front = {"class_path": "Fold", "init_args": {"bands": one.channels, "samples": one.ratio}}
        net = self.config[self.verb].model.net
        folded = {"class_path": net.class_path, "init_args": {"front": front}}
        model = {"autoencoder": found, **({"net": folded} if "front" in net.init_args else {})}
        # Sounds as the autoencoder knows them, unless one says otherwise.
        self._stand_in(parser, {"model": model, "data": {"mu": loaded.mu, "length": loaded.length}})

    def _stand_in(self, parser: LightningArgumentParser, options: dict[str, Any]) -> None:
        """Let options come after the defaults, and before those of the command line."""
        defaults = self.argv[: len(self.argv) - len(self.rest)]
        self.argv = [*defaults, "--config", yaml.safe_dump(options), *self.rest]
        self.config = expand_options(parser.parse_args(self.argv))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer; what its options cannot be is an error of one line."""
        refuse_nulls("trainer", Trainer, self.config[self.verb].trainer)
        try:
            return super().instantiate_trainer(**kwargs)
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"--trainer: {type(error).__name__}: {error}") from error

    def before_instantiate_classes(self) -> None:
        options = self.config[self.verb]
        refuse_nulls("data", AudioDataModule, options.data)
        refuse_nulls("model", KINDS[self.kind], options.model)
        data = AudioDataModule(**vars(options.data.clone()))
        # Made once for its complaints, before an hour goes into a store that a mistyped model will not use.
        _fill(options.model, inputs=_blocks(options.model.get("sde")))
        trial = options.clone()
        if self.start is not None:
            _fill(trial.model, classes=len(self.start.labels))
        model = checkpoint.build(self._plain(trial)["model"], KINDS[self.kind])
        if self.start is not None:
            self.start.fill(model, self.start.labels)
        # The store comes next: its classes are the network's.
        data.prepare_data()
        data.setup("fit")
        _fill(options.model, **{KINDS[self.kind].class_count: len(data.labels)})
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
                if key in logger.init_args and logger.init_args[key] in (None, ""):
                    logger.init_args[key] = value
        self.labels = data.labels
        if self.verb == "fit":
            (network, *_) = (net.get("class_path", "network").rsplit(".", 1)[-1] for net in _networks(options.model))
            count = sum(p.numel() for part in model.networks for p in part.parameters())
            last = default_files(self.kind)[-1].relative_to(CONFIGS) if self.start is None else "init.yaml"
            rank_zero_info(
                f"{'CUDA GPU' if torch.cuda.is_available() else 'No CUDA GPU'}: defaults of "
                f"configs/{last}; training a {network} of {count / 1e6:.3g} million weights on "
                f"{len(data.store)} clips of {listed(data.labels)} in {options.trainer.precision}; the run is {folder}/"
            )

    def _plain(self, options: Namespace) -> dict[str, Any]:
        """A configuration in plain types."""
        return yaml.safe_load(self._parser(self.verb).dump(options, skip_none=False))

    def after_instantiate_classes(self) -> None:
        dump = self._plain(self.config[self.verb])
        data = self.datamodule
        if self.teacher is not None:
            match_data(checkpoint.read(checkpoint.find(self.teacher))[KEY], data)
            self.labels = data.labels
        if self.latent is not None:
            self.latent.check(data)
            self.latent.fill(self.model.latents.autoencoder)
        self.model.metadata = {
            "config": {"model": dump["model"], "data": dump["data"]},
            "labels": list(self.labels),
            "rate": data.rate,
            "length": data.length,
            "mu": data.mu,
            "licences": data.licences,
            "version": __version__,
        }
        if self.start is not None:
            rank_zero_info(told(self.start, self.start.fill(self.model, self.labels)))
            self.model.metadata["started_from"] = self.start.fact


def run(argv: list[str]) -> None:
    """Run one of Lightning's verbs."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # a model's autoencoder
    warnings.filterwarnings("ignore", message=".*not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda line: "litlogger" not in line.getMessage()
    )
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        try:
            cli = CLI(argv)
        except OtherKind as other:
            cli = CLI(argv, other.kind)
        if number := interrupted(cli.trainer):
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)  # as a shell tells of what a signal has ended
        if cli.verb == "fit" and cli.config[cli.verb].init:
            _tell_best(cli.trainer)
    finally:
        runs.release()


def _tell_best(trainer: Trainer) -> None:
    """Say where the best weights of a fine-tuning are: the last ones are of some validations later."""
    for callback in trainer.checkpoint_callbacks:
        best = getattr(callback, "best_model_path", "")
        if callback.monitor == "val/loss" and best and Path(best).is_file():
            step = checkpoint.read(best)["global_step"]
            best = os.path.relpath(best)
            rank_zero_info(
                f"{trainer.global_step:,} steps; the held-out loss was least, {callback.best_model_score:.4f}, at step "
                f"{step:,}: diffwave-sde sample --ckpt {best}"
            )


def _blocks(sde: Namespace | None) -> int:
    """The number of blocks of the process that a configuration names."""
    return class_of(sde.class_path).blocks if sde is not None else 1


def _fill(model: Namespace, **values: int) -> None:
    """Give the null ones of `values` in a model's networks their value."""
    for network in _networks(model):
        for key, value in values.items():
            if key in network.init_args and network.init_args[key] is None:
                network.init_args[key] = value


def _networks(model: Namespace) -> list[Namespace]:
    """The networks of a model: that of a single one and its weak one, the stages of a cascade, or an autoencoder."""
    return [net for name in ("net", "weak", *cascade.NAMES, "autoencoder") if (net := model.get(name)) is not None]


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

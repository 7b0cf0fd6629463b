"""A W&B logger that is never in the way: offline until the user has logged in, and whenever the network is away.

A run logs into `RUN/wandb`. Its id is kept there, so that a run which goes on after a stop is one run in W&B too, and
the number of each record is that of the optimizer step: `wandb sync RUN/wandb/offline-run-*` sends it all later.
"""

from __future__ import annotations

import math
import netrc
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

PATIENCE = 3.0  # s to wait for the network before it is taken to be away
TIMEOUT = 20.0  # s to wait for a server that takes connections, and does not answer
CLOUD = ("wandb.ai", "coreweave.com")  # the same service by two names: the key for one serves the other


class Wandb(WandbLogger):
    """Log to W&B, offline unless the user has logged in.

    WANDB_MODE and `wandb offline` are obeyed. Else the run is online if there is an API key, in WANDB_API_KEY or from
    `wandb login`, and the server answers. Nothing is asked, and no failure of W&B stops a run.

    Args:
        save_dir: the run's folder; W&B makes a folder `wandb` in it. Null for the one that `attach` tells.
        name: the run's name in W&B; null for its folder's name.
        project: the project in W&B; null for WANDB_PROJECT, or diffwave-sde.
        id: the run's id in W&B; null for that of an earlier start in the same folder, or a new one.
        entity: user or team in W&B; null for the user's default.
        tags: words to find the run by.
    """

    _staging: str | None = None  # the run's own choice of WANDB_DATA_DIR, not the user's

    def __init__(
        self,
        save_dir: str | None = None,
        name: str | None = None,
        project: str | None = None,
        id: str | None = None,
        entity: str | None = None,
        tags: list[str] | None = None,
    ):
        project = project or os.environ.get("WANDB_PROJECT", "diffwave-sde")
        super().__init__(name=name, save_dir=save_dir, project=project, id=id, entity=entity, tags=tags)
        self._told = False

    def attach(self, trainer: Trainer) -> None:
        """Log into the trainer's default_root_dir, unless a folder was given. Before `fit`, which opens the run."""
        self._save_dir = self._save_dir or trainer.default_root_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; opened when first asked for."""
        if self._experiment is None:
            self._open()
        return self._experiment

    def _open(self) -> None:
        # Before the import: the client reports its own crashes over the network.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder = Path(self._save_dir or ".").resolve()
        kept = folder / "wandb" / "id"
        if self._id is None:
            self._id = kept.read_text().strip() if kept.exists() else secrets.token_hex(4)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(self._id)
        except OSError as error:
            raise OSError(f"the run's folder {folder} cannot be written ({error.strerror}); choose another") from error
        self._save_dir = str(folder)
        # Sounds of tables wait there for `wandb sync`: with their run, not in the user's home.
        if os.environ.get("WANDB_DATA_DIR") in (None, Wandb._staging):
            Wandb._staging = os.environ["WANDB_DATA_DIR"] = str(kept.parent)
        options = {**self._wandb_init, "dir": self._save_dir, "id": self._id, "name": self._name or folder.name}
        del options["anonymous"]
        # The terminal is the progress bar's; what it shows need not be logged a second time.
        settings = wandb.Settings(console="off", quiet=True, silent=True, init_timeout=TIMEOUT)
        first, why = choose_mode()
        for mode in dict.fromkeys((first, "offline", "disabled")):
            try:
                # A run that is open already belongs to another logger, or to a sweep: it is not ended.
                self._experiment = wandb.init(**options, mode=mode, settings=settings, reinit="create_new")
                break
            except Exception as error:
                said = (str(error) or type(error).__name__).splitlines()[0]
                print(f"W&B did not start {mode} ({said})", file=sys.stderr, flush=True)
                why = ""
                if wandb.run is None:
                    wandb.teardown()  # what is left of the attempt holds the run's id
        experiment = self._experiment
        experiment.define_metric("trainer/global_step")
        experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        if getattr(experiment, "offline", False) and not experiment.disabled:
            print(f"W&B logs offline into {folder / 'wandb'}{': ' + why if why else ''}", flush=True)
        elif getattr(experiment, "url", None):
            print(f"W&B: {experiment.url}", flush=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Say at the end how an offline run is sent."""
        super().finalize(status)
        run = self._experiment
        if run is None or self._told or not getattr(run, "offline", False) or run.disabled:
            return
        self._told = True
        where = os.path.relpath(Path(self._save_dir) / "wandb")
        print(
            f"W&B: `wandb login`, once, and `wandb sync {where}/offline-run-*` send this run, from where it is: the "
            f"sounds of its tables lie in {os.path.relpath(os.environ['WANDB_DATA_DIR'])}/artifacts",
            flush=True,
        )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log at the optimizer step `step`. After a stop, what the stopped run had logged beyond it stays."""
        if step is None:
            step = self.experiment.step
        if step >= self.experiment.step:
            self.experiment.log({**metrics, "trainer/global_step": step}, step=step)


def log_sounds(logger: WandbLogger, step: int, kinds: Sequence[str], files: Sequence[Path]) -> None:
    """Log sounds, their pictures, and a table of both.

    Args:
        logger: of any project.
        step: the optimizer's.
        kinds: the class of each, "" for none.
        files: their WAV files, with the picture of each beside it.
    """
    import wandb

    captions = [f"{file.stem}, step {step}" for file in files]

    def sounds() -> list:
        return [wandb.Audio(str(f), caption=c) for f, c in zip(files, captions, strict=True)]

    def pictures() -> list:
        return [wandb.Image(str(f.with_suffix(".png")), caption=c) for f, c in zip(files, captions, strict=True)]

    table = wandb.Table(columns=["step", "class", "sound", "audio", "picture"])
    for i, row in enumerate(zip(kinds, sounds(), pictures(), strict=True)):
        table.add_data(step, row[0], i, *row[1:])
    logger.log_metrics({"samples/audio": sounds(), "samples/pictures": pictures(), "samples/table": table}, step=step)


def log_spikes(logger: WandbLogger, step: int, clips: Sequence[tuple[int, str, Path, str]]) -> None:
    """Log a table of the clips of spikes.

    Args:
        logger: of any project.
        step: the optimizer's at which it is logged.
        clips: the step of the spike, what stood out, the WAV file with its picture beside it, what is told of it.
    """
    import wandb

    table = wandb.Table(columns=["step", "what", "clip", "audio", "picture"])
    for at, what, file, told in clips:
        table.add_data(at, what, told, wandb.Audio(str(file)), wandb.Image(str(file.with_suffix(".png"))))
    logger.log_metrics({"spikes/table": table}, step=step)


def log_noise_levels(logger: WandbLogger, step: int, losses: Mapping[float, float]) -> None:
    """Log a curve of the loss over log10 σ, the lower end of each decade.

    Args:
        logger: of any project.
        step: the optimizer's.
        losses: by σ, rising.
    """
    import wandb

    table = wandb.Table(
        columns=["log10 sigma", "loss"], data=[[round(math.log10(s)), loss] for s, loss in losses.items()]
    )
    curve = wandb.plot.line(table, "log10 sigma", "loss", title="Validation loss by noise level")
    logger.log_metrics({"val/loss_by_noise_level": curve}, step=step)


def choose_mode() -> tuple[str, str]:
    """online, offline or disabled; and why it is offline where the user may expect otherwise."""
    import wandb

    try:
        settings = wandb.setup().settings  # of the environment and of `wandb login`, `wandb offline`
    except Exception as error:
        return "offline", f"W&B's settings are not valid ({str(error).splitlines()[0]})"
    if settings.mode != "online":
        return settings.mode, ""
    if not (settings.api_key or logged_in(settings.base_url)):
        return "offline", "`wandb login` puts the next run online"
    if not reachable(settings.base_url):
        return "offline", f"{settings.base_url} cannot be reached"
    return "online", ""


def logged_in(server: str) -> bool:
    """Whether there is an API key for the server, in the environment or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True

    wanted = urlsplit(server).netloc

    def names(host: str) -> bool:
        return host == wanted or (wanted.endswith(CLOUD) and host.endswith(CLOUD))

    for path in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            hosts = netrc.netrc(os.path.expanduser(path)).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        if any(password and names(host) for host, (_, _, password) in hosts.items()):
            return True
    return False


def reachable(server: str) -> bool:
    """Whether the server, or the proxy on the way to it, takes a connection."""
    url = urlsplit(server)
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True

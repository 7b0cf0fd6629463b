"""Make a recorded loss spike again, and say whether the data, the draw of times and noise, or the weights made it."""

from __future__ import annotations

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffwave_sde import replay
from diffwave_sde.callbacks.spikes import described
from diffwave_sde.cli import cores, model_options
from diffwave_sde.cli.path_options import expand_options
from diffwave_sde.progress import progress_bar
from diffwave_sde.replay import Report, Spike


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde replay", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    p.add_argument("spike", type=str, help="a record of SpikeDetector, runs/NAME/spikes/step=N.pt")
    p.add_argument(
        "--ckpt",
        type=str | None,
        help="the checkpoint of the earlier weights (default: the run's nearest before the spike)",
    )
    p.add_argument("--trials", type=int, default=4, help="computations for each replacement, of a global batch each")
    p.add_argument("--shown", type=int, default=12, help="clips that the page and the table have at most")
    p.add_argument("--layers", type=int, default=8, help="layers that are listed, those of the largest gradients")
    p.add_argument("--seed", type=int, default=0, help="seed of the clips and draws that stand in")
    p.add_argument("--device", type=model_options.Device, default="cpu", help="where to compute")
    return p


def run(argv: list[str]) -> None:
    """Run `diffwave-sde replay`."""
    config = expand_options(parser().parse_args(argv[1:]))
    if min(config.trials, config.shown, config.layers) < 1:
        raise ValueError("--trials, --shown and --layers must be at least 1")
    cores.limit_threads()
    spike = Spike.read(config.spike)
    with progress_bar("computations") as progress:
        task = progress.add_task("replaying", total=None)
        report = replay.replay(
            *(spike, config.trials, model_options.device(config.device), config.ckpt, config.seed),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _print(report, config.shown, config.layers)
    print(f"listen: {replay.write_page(report, config.shown)}")


def _print(report: Report, shown: int, layers: int) -> None:
    record, again, console = report.spike.record, report.rows[replay.AGAIN].trials[0], Console()
    print(f"step {record['step']}: {described(record['reasons'])}")
    usual = record.get("usual") or {}
    for name, then, now in (("loss", record["loss"], again.loss), ("grad_norm", record["grad_norm"], again.norm)):
        known = f", usual {usual[name]['median']:.4g}, limit {usual[name]['limit']:.4g}" if name in usual else ""
        print(f"  {name} {then:.6g} in training, {now:.6g} again{known}")
    table = Table("computed", "loss", "gradient norm", "spikes")
    for row in report.rows.values():
        loss, norm = row.median(lambda trial: trial.loss), row.median(lambda trial: trial.norm)
        table.add_row(row.what, f"{loss:.4g}", f"{norm:.4g}", f"{row.spiked} of {len(row.trials)}")
    console.print(table)
    if report.earlier is None:
        print("no checkpoint of the run is from before the spike: earlier weights are not tried (--ckpt names one)")
    table = Table("clip", "σ", "loss", "again", "other draws")
    for clip in report.clips[:shown]:
        figures = (f"{value:.3g}" for value in (clip.sigma, clip.recorded, clip.again, clip.elsewhere))
        table.add_row(Text(clip.name), *figures)
    console.print(table)
    table = Table("layer", "gradient norm", "other clips and draws")
    for name, norm, other in report.layers[:layers]:
        table.add_row(name, f"{norm:.4g}", f"{other:.4g}")
    console.print(table)
    print(f"rule: {replay.RULE}")
    print(f"cause: {report.cause} ({report.why})")

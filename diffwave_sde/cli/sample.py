"""Make new sounds from a checkpoint: WAV files, a picture of their spectrograms and a page to hear them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffwave_sde import checkpoint, generate
from diffwave_sde.cli import cascade_options, model_options, neighbour_options, runs
from diffwave_sde.cli.path_options import parse
from diffwave_sde.progress import progress_bar
from diffwave_sde.sounds.folder import Filled, SoundFolder
from diffwave_sde.sounds.page import slug
from diffwave_sde.track import JOINS, Track

if TYPE_CHECKING:
    from diffwave_sde.metrics.sets import HeldOut


def run(argv: list[str]) -> None:
    """Run `diffwave-sde sample`."""
    make(parse(parser(), argv[1:]))


def make(config: Namespace, model: checkpoint.LoadedModel | None = None, held: HeldOut | None = None) -> Path:
    """Make the sounds that the options ask for; the folder that holds them.

    Args:
        config: the options.
        model: that they ask for, where it was loaded before.
        held: pairs, for whose contexts the sounds are made, of the classes of their parts.
    """
    if config.n < 1:
        raise ValueError(f"--n {config.n}: ask for at least one sound")
    if config.length is not None and config.length < 1:
        raise ValueError(f"--length {config.length}: a sound has at least one sample")
    if config.audio is not None:
        for option in ("length", "loop", "cuda_graphs", "neighbours", "neighbours_data", "redraw_copies"):
            if config[option]:
                raise ValueError(f"--{option}: with --audio sounds are as long as the track; leave it out")
    sampler = parser().instantiate_classes(config).sampler
    model = model or model_options.load(config, "sample from", cascade=True, latent=True)
    cascade_options.apply(model, config)
    if held is None:
        label = model_options.labels(model, config.n, config.label)
    else:
        shown = [held.names[i] for i in held.labels]
        knows = bool(model.module.denoiser.net.classes)
        label = generate.Labels(torch.tensor([model.labels.index(one) if knows else -1 for one in shown]), shown)
    track = None
    if config.audio is not None:
        track = Track.read(config.audio, model.rate, model.length, config.join)
        for line in track.remarks:
            print(line)
    out = Path(config.out) if config.out else _default_out(model, config)
    runs.writable(out)
    # Before the sounds: where the training clips are not here, nothing is made for nothing.
    index = neighbour_options.index(config, model) if neighbour_options.wanted(config) else None
    copies = neighbour_options.Copies(index) if config.redraw_copies else None
    with progress_bar("sounds") as progress:
        task = progress.add_task(f"sampling with {type(sampler or model.module.sampler).__name__}", total=config.n)
        folder, filled = generate.make_sounds(
            model,
            out,
            label,
            sampler=sampler,
            **{
                name: config[name]
                for name in ("seed", "length", "clip", "batch_size", "cuda_graphs", "subtype", "loop")
            },
            record=_record(config, model) | ({"without_copies_of": index.about} if copies else {}),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            refused=copies,
            track=track,
            contexts=None if held is None else held.contexts,
        )
    found = generate.add_neighbours(folder, index, range(config.n)) if index else []
    _report(folder, filled, config.n)
    if copies and copies.count:
        print(f"{copies.count} sounds that were perhaps copies were made anew")
    if found:
        print(neighbour_options.report(found, index))
    return out


def parser() -> ArgumentParser:
    """The options of the verb."""
    p = ArgumentParser(prog="diffwave-sde sample", description=__doc__, exit_on_error=False)
    p.add_argument("--config", action="config", help="YAML file with values of these options")
    model_options.add(p)
    cascade_options.add(p)
    p.add_argument("--n", type=int, default=16, help="number of sounds")
    p.add_argument(
        "--label",
        type=str,
        help="classes, a,b,..., in turn; a mix of them is a:0.7+b:0.3; a comma in a name is \\, a plus \\+ and a byte "
        "that is not UTF-8 \\xe9 (default: all that the model knows)",
    )
    p.add_argument(
        "--out", type=str | None, help="folder for the sounds (default: RUN/sounds/step=N-seed=S, or sounds/MODEL/...)"
    )
    p.add_argument(
        "--audio",
        type=str | None,
        help="a sound file that the new sounds are to go with, of any length and rate, mixed to mono; for a model that "
        "was trained on pairs; --guidance.audio says how closely they follow (default: none)",
    )
    p.add_argument(
        "--join",
        type=Literal[JOINS],  # type: ignore[valid-type]
        default="projection",
        help="how windows of a track longer than the model's are joined. projection, posterior: each is made with the "
        "quarter that it shares with the one before it known, at 4/3 of the calls; posterior weighs that by the "
        "denoiser's own covariance, at 4 backward passes a call more. crossfade: each is made alone, an eighth is "
        "shared, at 8/7 of the calls",
    )
    p.add_argument("--length", type=int | None, help="length in samples (default: that of the training windows)")
    p.add_argument(
        "--loop",
        action="store_true",
        help="let each sound's last sample meet its first, so that it can be played in a loop; costs nothing, and "
        "suits models of loops (configs/experiment/loops.yaml)",
    )
    p.add_argument(
        "--cuda_graphs",
        action="store_true",
        help="capture the sampling of the first batch as CUDA graphs, and replay them for the others (default: launch "
        "every kernel); pays on a GPU for several batches; the sounds are the same",
    )
    neighbour_options.add(p)
    neighbour_options.add_redraw(p)
    return p


def _default_out(model: checkpoint.LoadedModel, config: Namespace) -> Path:
    name = f"step={model.step}-seed={config.seed}"
    if config.audio is not None:
        name += f"-{slug(Path(config.audio).stem)}"
    return runs.output_dir(model.path, "sounds") / name


def _record(config: Namespace, model: checkpoint.LoadedModel) -> dict[str, Any]:
    """What the sounds follow from beside the model and the arguments of `make_sounds`."""
    classifier = {"classifier": str(checkpoint.find(config.classifier))} if config.classifier else {}
    return {
        **classifier,
        **cascade_options.record(model),
        "weights": config.weights,
        "options": config.sampler.as_dict() if config.sampler else "the model's own",
        "weak": config.weak and str(checkpoint.find(config.weak)),
        "device": config.device,
        "precision": config.precision,
    }


def _report(folder: SoundFolder, filled: Filled, n: int) -> None:
    """Print what was made: how loud it is, how long it took, and where it is."""
    sounds = [folder.sounds[i] for i in range(n)]
    table = Table("class", "sounds", "peak, dBFS (median)")
    for name in dict.fromkeys(sound["label"] for sound in sounds):
        level = torch.tensor([sound["peak_dbfs"] for sound in sounds if sound["label"] == name])
        table.add_row(Text(name), str(len(level)), f"{level.median():.1f}")
    Console().print(table)
    beyond = [sound for sound in folder.beyond if sound["number"] < n]
    if beyond:
        kept = "the WAV files keep it, players cut it" if folder.subtype == "FLOAT" else "it was cut"
        print(
            f"{len(beyond)} of {n} sounds go beyond full scale, up to {beyond[0]['peak_dbfs']:+.1f} dBFS: {kept}; "
            "--clip static keeps them within"
        )
    there = f", {filled.kept} of which were there already" if filled.kept else ""
    speed = ""
    if filled.made:
        factor = filled.audio / filled.seconds
        speed = f"; {filled.audio:.2f} s of sound in {filled.seconds:.2f} s, real-time factor {factor:.2f}"
    how = folder.record["guidance"]
    how = "" if how == "none" else f" (more work where guided, {how})"
    page_at = folder.path / "index.html"
    print(f"{n} sounds in {folder.path}/{there}, {folder.nfe} network calls each{how}{speed}; listen: {page_at}")

"""How near sounds in one to four calls come to the teacher's own: distances, recall, and what they cost.

    python benchmarks/few_steps.py --students drums-fast runs/mine [--teacher drums] [--sounds 96] [--picture FILE]

A student of consistency takes any number of steps, runs/mine:2 for two of them. With --drafts each line is a draft of
that model refined by the teacher, at each of --strengths.

Each line is a way to make the same sounds, from the same noise: the teacher by its own sampler, the teacher in few
calls by the solvers that are best at it, and the students by theirs. Distances are Fréchet distances from clips that
were not trained on, over their floor, and over the teacher's own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sampling import generated, held_out, model
from tables import markdown, write

from diffwave_sde.drafts import Draft
from diffwave_sde.guidance import Guidance
from diffwave_sde.metrics import EMBEDDINGS, evaluate
from diffwave_sde.samplers import DDIM, DPMSolver2M, JumpGrid, LogNormalGrid, LogSNRGrid, Sampler
from diffwave_sde.sounds.pictures import spectrogram_png

Line = tuple[str, Sampler | None, Guidance | None, Draft | None]
"""The model, its sampler and guidance, None for its own; and what it begins with."""


def lines(options: argparse.Namespace) -> dict[str, Line]:
    """Ways of making sounds."""
    teacher = options.teacher
    found: dict[str, Line] = {f"{teacher}, its own sampler": (teacher, None, None, None)}
    for steps in (8, 4):
        found[f"{teacher}, DPMSolver2M({steps})"] = (teacher, DPMSolver2M(steps, JumpGrid(LogSNRGrid())), None, None)
    found[f"{teacher}, DDIM(4)"] = (teacher, DDIM(4, grid=JumpGrid(LogNormalGrid())), None, None)
    for student in options.students:
        path, _, steps = student.rpartition(":")
        if path and steps.isdigit():
            own = model(path, torch.device("cpu")).module.sampler
            found[f"{path}, {steps} steps"] = (path, type(own)(int(steps)), None, None)
        else:
            found[f"{student}, its own sampler"] = (student, None, None, None)
    for name in options.drafts:
        for strength in options.strengths:
            draft = Draft(model(name, torch.device("cpu")), strength)
            found[f"{name}, refined at {strength:g}"] = (teacher, None, None, draft)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="drums", help="checkpoint, run or model (default: the model drums)")
    parser.add_argument("--students", nargs="*", default=["drums-fast"], help="checkpoints, runs or models")
    parser.add_argument(
        "--drafts", nargs="*", default=[], help="models whose sounds the teacher refines (default: none)"
    )
    parser.add_argument(
        "--strengths", nargs="*", type=float, default=[0.05, 0.15, 0.3, 0.5, 0.8], help="shares of noise, 0 to 1"
    )
    parser.add_argument("--dataset", default="drums", help="what the sounds are laid against (default drums)")
    parser.add_argument("--sounds", type=int, default=96, help="sounds of each line (default 96)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the noise (default 1)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (default: cores)")
    parser.add_argument("--picture", type=Path, help="file for the first sounds of each line as spectrograms")
    parser.add_argument("--markdown", type=Path, help="file to write the table to as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    real, embeddings = held_out(options.dataset), [kind() for kind in EMBEDDINGS.values()]
    table = Table(
        "",
        "calls",
        *(f"{name}, floors" for name in EMBEDDINGS),
        *(f"{name}, over the teacher's" for name in EMBEDDINGS),
        *(f"recall, {name}" for name in EMBEDDINGS),
        "s a sound, in batches of 20",
        caption=f"{options.sounds} sounds, seed {options.seed}",
    )
    first: dict[str, float] = {}
    pictures: list[tuple[str, torch.Tensor]] = []
    for name, (which, sampler, guidance, draft) in track(
        lines(options).items(), "listening", console=Console(stderr=True)
    ):
        found = model(which, device)
        begin = time.perf_counter()
        sounds, calls = generated(found, sampler, guidance, options.sounds, options.seed, draft)
        seconds = (time.perf_counter() - begin) / options.sounds
        results = {
            k: v["all"]
            for k, v in evaluate(real, sounds, embeddings, resamples=10, count=options.sounds)["embeddings"].items()
        }
        values = {k: v["frechet"]["value"] for k, v in results.items()}
        first = first or values
        table.add_row(
            name,
            str(calls),
            *(f"{v['frechet']['value'] / v['frechet']['floor']:.2f}" for v in results.values()),
            *(f"{values[k] / first[k]:.2f}" for k in values),
            *(f"{v['recall']['value']:.2f} ({v['recall']['floor']:.2f})" for v in results.values()),
            f"{seconds:.3f}",
        )
        pictures += [(f"{name}: {sounds.labels[i]}", sounds.sounds[i]) for i in range(3)]
    Console().print(table)
    write(options.markdown, markdown(table))
    if options.picture:
        titles, waveforms = zip(*pictures, strict=True)
        spectrogram_png(options.picture, torch.stack(waveforms), titles)


if __name__ == "__main__":
    main()

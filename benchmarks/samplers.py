"""Which sampler is best at each number of network calls, and what a sampler costs beside its calls.

    python benchmarks/samplers.py [--ckpt RUN] [--markdown FILE]

First: the sliced Wasserstein distance between what a sampler makes with the exact denoiser of a mixture of sounds
(eight decaying tones of 256 samples, each with noise of its own) and the mixture, over its floor: the distance of two
draws of the data. Each sampler is tried on EDM, VP and CLD, as far as it takes them, all from the same noises. Where
diffusers is installed (`make oracles`), its DDIM and DPM-Solver++ stand beside ours on its own chain.

Then, for a trained model, from the same noises: the distance from the sounds of a thousand steps of DDIM (rms over
rms), for the deterministic samplers; and the Fréchet distance (log-mel embedding, dB²) from the data, for all.

Last: the time of a run over that of its bare network calls.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from tables import markdown
from torch import Tensor, nn

from diffwave_sde import audio, checkpoint
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.metrics import LogMel, frechet
from diffwave_sde.networks import MDCT, UNet
from diffwave_sde.random import stream
from diffwave_sde.samplers import (
    DDIM,
    SSCS,
    Ancestral,
    AnnealedLangevin,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    DPMSolverSDE,
    EulerMaruyama,
    GottaGoFast,
    Heun,
    MaximumLikelihood,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    TimesGrid,
)
from diffwave_sde.sde import CLD, DDPM, EDM, SDE, VP, float64

CALLS = (5, 10, 20, 50, 200)
LENGTH = 256


class Tones(nn.Module):
    """The exact denoiser of a mixture of eight decaying tones, each with noise of standard deviation 0.02."""

    def __init__(self, sde: SDE):
        super().__init__()
        self.sde, self.std = sde, 0.02
        t = torch.arange(LENGTH) / LENGTH
        k = torch.arange(8)[:, None]
        self.tones = (0.8 * (2 * math.pi * (3 + 2 * k) * t).sin() * (-(1 + k) * t).exp()).float()
        self.sigma_data = torch.tensor(float(self.tones.square().mean().sqrt()))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, LENGTH)"""
        which = torch.randint(8, (count,), generator=generator)
        return self.tones[which] + self.std * torch.randn(count, LENGTH, generator=generator)

    def forward(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        kernel = self.sde.kernel(float64(t))
        y = (kernel.matched[..., None] * u[:, :, 0].double()).sum(1)  # Σ⁻¹M·u = snr x + noise
        snr, mean = kernel.snr[:, None], self.tones.double()
        variance = 1 / (1 / self.std**2 + snr)
        posterior = variance[..., None] * (mean / self.std**2 + y[:, None])  # (B, 8, T)
        power = 0.5 * (posterior.square() / variance[..., None] - mean.square() / self.std**2)
        share = power.sum(-1).softmax(-1)
        return (share[..., None] * posterior).sum(1)[:, None].to(u.dtype)


def distance(a: Tensor, b: Tensor) -> float:
    """The sliced Wasserstein distance of two sets of as many sounds (N, T), over 200 directions."""
    directions = torch.randn(LENGTH, 200, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=0)
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean().sqrt())


# For each sampler how it is made for so many network calls.
MAKE = {
    "Heun": lambda n: Heun((n + 1) // 2),
    "Heun, churn 1/6 a step": lambda n: Heun((n + 1) // 2, churn=(n + 1) // 2 / 6),
    "Heun, churn 0.4 a step": lambda n: Heun((n + 1) // 2, churn=(n + 1) // 2 * 0.4),
    "DDIM": lambda n: DDIM(n),
    "DPMSolver2M": lambda n: DPMSolver2M(n),
    "DPMSolver3M": lambda n: DPMSolver3M(n),
    "DPMSolver2S": lambda n: DPMSolver2S((n + 1) // 2),
    "DPMSolverSDE": lambda n: DPMSolverSDE(n),
    "Ancestral": lambda n: Ancestral(n),
    "MaximumLikelihood, variance_share 1": lambda n: MaximumLikelihood(n, variance_share=1.0),
    "EulerMaruyama": lambda n: EulerMaruyama(n),
    "ReverseDiffusion": lambda n: ReverseDiffusion(n),
    "PredictorCorrector": lambda n: PredictorCorrector((n + 1) // 2),
    "AnnealedLangevin": lambda n: AnnealedLangevin(n, repeats=1),
    "SSCS": lambda n: SSCS(n),
    "GottaGoFast": lambda n: GottaGoFast(max_nfe=n, rtol=0.1, atol=0.02),
}
FLOWS = ("Heun", "DDIM", "DPMSolver2M", "DPMSolver3M", "DPMSolver2S")


class Diffusers(Sampler):
    """A scheduler of diffusers in its own loop, on the chain of Ho et al. 2020.

    Args:
        scheduler: one that takes data predictions.
        steps: steps, and network calls.
    """

    def __init__(self, scheduler, steps: int):
        self.scheduler, self.steps = scheduler, steps
        scheduler.set_timesteps(steps)
        self.times = (scheduler.timesteps.double() + 1) / 1000

    def supports(self, sde: SDE) -> bool:
        return sde.steps == 1000 and sde.stationary == (1.0,)  # a variance-preserving chain

    def solve(self, state, u: Tensor, progress) -> Tensor:
        self.scheduler.set_timesteps(self.steps)  # it forgets where it is
        x = u[:, 0]
        for t, index in zip(self.times, self.scheduler.timesteps, strict=True):
            state.calls += 1
            x = self.scheduler.step(state.at(x[:, None], t.expand(len(x))), index, x).prev_sample
        return x


def peers(steps: int) -> dict[str, Sampler]:
    """Ours and diffusers' own, at the same times; nothing where diffusers is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        return {}
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    chain = {"beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "sample", "timestep_spacing": "trailing"}
    theirs = {
        "DDIM": Diffusers(DDIMScheduler(**chain, clip_sample=False), steps),
        "DPMSolver2M": Diffusers(DPMSolverMultistepScheduler(**chain), steps),
    }
    out: dict[str, Sampler] = {}
    for name, ours in (("DDIM", DDIM), ("DPMSolver2M", DPMSolver2M)):
        out[name] = ours(steps, TimesGrid(theirs[name].times.tolist()))
        out[f"{name} of diffusers"] = theirs[name]
    return out


def exact(count: int, chosen: list[str]) -> Table:
    """The table of distances with the exact denoiser, over the floor."""
    table = Table("sampler", "process", *[f"{n} calls" for n in CALLS])
    cases = [
        (kind, sde, MAKE[kind])
        for kind in chosen
        for sde in (EDM(2e-4, 20.0), VP(), CLD())
        if MAKE[kind](20).supports(sde)
    ]
    if chosen == list(MAKE):
        cases += [(kind, DDPM(), lambda n, kind=kind: peers(n)[kind]) for kind in peers(5)]
    for kind, sde, make in track(cases, "exact denoiser", console=Console(stderr=True)):
        denoiser = Tones(sde)
        data, other = (denoiser.sample(count, torch.Generator().manual_seed(s)) for s in (1, 2))
        floor = distance(data, other)
        u = sde.prior((count, 1, LENGTH), torch.Generator().manual_seed(3))
        cells = []
        for calls in CALLS:
            sampler = make(calls)
            x = sampler(denoiser, u, generator=stream(4))[:, 0]
            assert sampler.nfe <= calls, (kind, calls, sampler.nfe)
            cells.append(f"{distance(x, data) / floor:.2f}")
        table.add_row(kind, type(sde).__name__, *cells)
    return table


def trained(path: str, count: int, chosen: list[str]) -> tuple[Table, Table]:
    """Of a trained model: the distances from a thousand steps from the same noises, and those from the data."""
    model = checkpoint.load(path)
    denoiser = model.module.denoiser
    label = torch.arange(count) % max(len(model.labels), 1)
    generators = [stream("benchmark", i) for i in range(count)]
    start = denoiser.sde.prior((count, 1, model.length), generators)

    def sounds(sampler: Sampler) -> Tensor:
        parts = [
            sampler(denoiser, start[i], Condition(label=label[i]), [stream("noise", int(j)) for j in i])
            for i in torch.arange(count).split(16)
        ]
        return audio.expand(torch.cat(parts)[:, 0], model.mu)

    real, other = recordings(model, label)
    embed = LogMel()
    data = embed(real)
    away = Table("sampler", *[f"{n} calls" for n in CALLS[:-1]], title="distance from 1,000 steps, rms over rms")
    table = Table("sampler", *[f"{n} calls" for n in CALLS[:-1]], title=f"Fréchet distance, dB², {count} sounds")
    kinds = [kind for kind in chosen if MAKE[kind](20).supports(denoiser.sde)]
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("trained model", total=1000 + len(kinds) * sum(CALLS[:-1]))
        reference = sounds(DDIM(1000))
        bar.advance(task, 1000)
        for kind in kinds:
            errors, distances = [], []
            for n in CALLS[:-1]:
                x = sounds(MAKE[kind](n))
                errors.append(f"{float((x - reference).norm() / reference.norm()):.3f}")
                distances.append(f"{frechet(data, embed(x)):.0f}")
                bar.advance(task, n)
            table.add_row(kind, *distances)
            if kind in FLOWS:
                away.add_row(kind, *errors)
    table.add_row("DDIM, 1,000 calls", *[f"{frechet(data, embed(reference)):.0f}"] * len(CALLS[:-1]))
    table.add_row("the data itself (floor)", *[f"{frechet(data, embed(other)):.0f}"] * len(CALLS[:-1]))
    return away, table


def recordings(model: checkpoint.LoadedModel, label: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of training clips (n, T) with the classes of `label`, none in both."""
    data = checkpoint.data(model.path, mu=0)
    data.setup("fit")
    rows = data.splits["train"]
    kinds = data.store.label_ids[rows]
    order = [(int((label[:i] == k).sum()), int(k)) for i, k in enumerate(label)]
    sets = [[rows[kinds == k][2 * turn + half] for turn, k in order] for half in (0, 1)]
    first, second = (audio.from_int16(data.store.read(np.array(s))) for s in sets)
    return first.reshape(len(label), -1), second.reshape(len(label), -1)


def overhead(rounds: int) -> Table:
    """The table of times, over those of the same number of bare network calls; the two take turns."""
    torch.manual_seed(0)
    table = Table("sampler", "process", "run / bare calls")
    cases = [("DDIM", EDM(2e-4, 20.0)), ("Heun", EDM(2e-4, 20.0)), ("DPMSolver2M", VP()), ("SSCS", CLD())]
    makers = [(kind, sde, MAKE[kind](40)) for kind, sde in cases]
    makers += [(kind, DDPM(), sampler) for kind, sampler in peers(40).items()]
    for kind, sde, sampler in makers:
        net = UNet(sde.blocks, front=MDCT(60), channels=[256, 384], factors=[3], blocks=1).eval()
        denoiser = Denoiser(net, sde)
        u = sde.prior((1, 1, 21_000))
        inputs, noise = u.flatten(1, 2), torch.zeros(1)
        ratios = []
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            sampler(denoiser, u)
            middle = time.perf_counter()
            with torch.no_grad():
                for _ in range(sampler.nfe):
                    net(inputs, noise)
            ratios.append((middle - begin) / (time.perf_counter() - middle))
        ratios = sorted(ratios[1:])  # the first warms up
        table.add_row(kind, type(sde).__name__, f"{ratios[len(ratios) // 2]:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="sounds per sampler with the exact denoiser")
    parser.add_argument("--ckpt", help="a trained model's checkpoint or run, for the second table")
    parser.add_argument("--sounds", type=int, default=48, help="sounds of the trained model")
    parser.add_argument("--samplers", nargs="+", choices=list(MAKE), default=list(MAKE), help="these samplers alone")
    parser.add_argument("--only", choices=["exact", "trained", "overhead"], help="one part alone")
    parser.add_argument("--rounds", type=int, default=15, help="runs that the cost of a sampler is the median of")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    tables: list[Table] = []
    if options.only in (None, "exact"):
        tables.append(exact(options.count, options.samplers))
    if options.ckpt and options.only in (None, "trained"):
        tables.extend(trained(options.ckpt, options.sounds, options.samplers))
    if options.only in (None, "overhead"):
        tables.append(overhead(options.rounds))
    for table in tables:
        Console(width=160).print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(map(markdown, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()

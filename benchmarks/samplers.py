"""Which sampler is best at each number of network calls, and what a sampler costs beside its calls.

    python benchmarks/samplers.py [--ckpt RUN] [--markdown FILE]

First: the sliced Wasserstein distance between what a sampler makes with the exact denoiser of a mixture of sounds
(eight decaying tones of 256 samples, each with noise of its own) and the mixture, over its floor: the distance of two
draws of the data. Each sampler is tried on EDM, VP and CLD, as far as it takes them, all from the same noises.

Then, for a trained model: the distance from the sounds of a thousand steps of DDIM from the same noises, for the
deterministic samplers, rms over rms. Last: the time of a run over that of its bare network calls.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown
from torch import Tensor, nn

from diffwave_sde import checkpoint
from diffwave_sde.denoiser import Condition, Denoiser
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
)
from diffwave_sde.sde import CLD, EDM, SDE, VP, float64

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
    "DDIM": lambda n: DDIM(n),
    "DPMSolver2M": lambda n: DPMSolver2M(n),
    "DPMSolver3M": lambda n: DPMSolver3M(n),
    "DPMSolver2S": lambda n: DPMSolver2S((n + 1) // 2),
    "DPMSolverSDE": lambda n: DPMSolverSDE(n),
    "Ancestral": lambda n: Ancestral(n),
    "MaximumLikelihood, spread 1": lambda n: MaximumLikelihood(n, spread=1.0),
    "EulerMaruyama": lambda n: EulerMaruyama(n),
    "ReverseDiffusion": lambda n: ReverseDiffusion(n),
    "PredictorCorrector": lambda n: PredictorCorrector((n + 1) // 2),
    "AnnealedLangevin": lambda n: AnnealedLangevin(n, repeats=1),
    "SSCS": lambda n: SSCS(n),
    "GottaGoFast": lambda n: GottaGoFast(calls=n, relative=0.1, absolute=0.02),
}
FLOWS = ("Heun", "DDIM", "DPMSolver2M", "DPMSolver3M", "DPMSolver2S")


def exact(count: int) -> Table:
    """The table of distances with the exact denoiser, over the floor."""
    table = Table("sampler", "process", *[f"{n} calls" for n in CALLS])
    cases = [(kind, sde) for kind in MAKE for sde in (EDM(2e-4, 20.0), VP(), CLD()) if MAKE[kind](20).takes(sde)]
    for kind, sde in track(cases, "exact denoiser", console=Console(stderr=True)):
        denoiser = Tones(sde)
        data, other = (denoiser.sample(count, torch.Generator().manual_seed(s)) for s in (1, 2))
        floor = distance(data, other)
        u = sde.prior((count, 1, LENGTH), torch.Generator().manual_seed(3))
        cells = []
        for calls in CALLS:
            sampler = MAKE[kind](calls)
            x = sampler(denoiser, u, generator=stream(4))[:, 0]
            assert sampler.nfe <= calls, (kind, calls, sampler.nfe)
            cells.append(f"{distance(x, data) / floor:.1f}")
        table.add_row(kind, type(sde).__name__, *cells)
    return table


def trained(path: str, count: int) -> Table:
    """The table of distances from a thousand steps, from the same noises."""
    model = checkpoint.load(path)
    denoiser = model.module.denoiser
    label = torch.arange(count) % max(len(model.labels), 1)
    condition = Condition(label=label)
    u = denoiser.sde.prior((count, 1, model.length), [stream("benchmark", i) for i in range(count)])
    reference = DDIM(1000)(denoiser, u, condition)
    table = Table("sampler", *[f"{n} calls" for n in CALLS[:-1]])
    for kind in track(FLOWS, "trained model", console=Console(stderr=True)):
        if MAKE[kind](20).takes(denoiser.sde):
            sounds = [MAKE[kind](n)(denoiser, u, condition) for n in CALLS[:-1]]
            table.add_row(kind, *[f"{float((x - reference).norm() / reference.norm()):.3f}" for x in sounds])
    return table


def overhead(rounds: int) -> Table:
    """The table of times, over those of the same number of bare network calls; the two take turns."""
    torch.manual_seed(0)
    table = Table("sampler", "process", "run / bare calls")
    for kind, sde in (("DDIM", EDM(2e-4, 20.0)), ("Heun", EDM(2e-4, 20.0)), ("DPMSolver2M", VP()), ("SSCS", CLD())):
        net = UNet(sde.blocks, front=MDCT(60), channels=[256, 384], factors=[3], blocks=1).eval()
        denoiser, sampler = Denoiser(net, sde), MAKE[kind](40)
        u = sde.prior((1, 1, 21_000))
        inputs, noise = u.flatten(1, 2), torch.zeros(1)
        ratios = []
        for _ in range(rounds):
            begin = time.perf_counter()
            sampler(denoiser, u)
            middle = time.perf_counter()
            with torch.no_grad():
                for _ in range(sampler.nfe):
                    net(inputs, noise)
            ratios.append((middle - begin) / (time.perf_counter() - middle))
        table.add_row(kind, type(sde).__name__, f"{sorted(ratios)[len(ratios) // 2]:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="sounds per sampler with the exact denoiser")
    parser.add_argument("--ckpt", help="a trained model's checkpoint or run, for the second table")
    parser.add_argument("--sounds", type=int, default=6, help="sounds of the trained model")
    parser.add_argument("--rounds", type=int, default=15, help="runs that the cost of a sampler is the median of")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    tables = [exact(options.count)]
    if options.ckpt:
        tables.append(trained(options.ckpt, options.sounds))
    tables.append(overhead(options.rounds))
    for table in tables:
        Console(width=160).print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(map(markdown, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()

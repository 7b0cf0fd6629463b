"""How exact the processes are, and how much each law of the times makes a gradient vary.

    python benchmarks/processes.py [--markdown FILE]

First: the largest relative error of the score that a denoiser with the exact network gives, in float64 and in float32,
on Gaussian data and on a mixture, for every process and parametrization. The yardstick is the gradient of the
marginal's log-density, by automatic differentiation in float64, at the very state that the denoiser was shown.

Then: the variance of a batch's gradient, against that of independent times of the same law.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tables import markdown

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from truth import GAUSSIAN, MIXTURE, PARAMETRIZATIONS, PROCESSES, Mixture, exact  # the tests' exact truth

from diffwave_sde.denoiser import Denoiser
from diffwave_sde.loss import (
    ImportanceTime,
    KarrasWeight,
    LikelihoodWeight,
    LogNormalSigma,
    Loss,
    Objective,
    UniformTime,
)
from diffwave_sde.networks import UNet
from diffwave_sde.sde import EDM, SDE, VDM, VP


def score_error(sde: SDE, parametrization, data: Mixture, t: float, dtype: torch.dtype) -> float:
    """The relative rms error of the score, of the worse block, over a thousand states of the marginal at t."""
    g = torch.Generator().manual_seed(0)
    time = torch.full((1,), t, dtype=torch.float64)
    eps = torch.randn(1, sde.blocks, 1, 1000, generator=g, dtype=torch.float64)
    u = sde.kernel(time).sample(data.sample((1, 1, 1000), g), eps).to(dtype)
    denoiser = exact(sde, parametrization, data)
    if dtype is not torch.float64:
        denoiser.net = Rounded(denoiser.net, dtype)
    got = denoiser.score(u, time)[0, :, 0].double()
    truth = data.score(sde, u[0, :, 0].double().T, t).T
    return float(((got - truth).square().mean(1) / truth.square().mean(1)).sqrt().max())


class Rounded(torch.nn.Module):
    """A network that is exact to the digits of a type."""

    def __init__(self, net: torch.nn.Module, dtype: torch.dtype):
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, u, noise, condition=None):
        return self.net(u, noise.double(), condition).to(self.dtype)


def times_of(sde: SDE) -> dict[str, float]:
    """t_min, one half, and 1 or what comes nearest to it."""
    return {"t_min": sde.t_min, "½": 0.5, "1": sde.t_max}


def accuracy() -> Table:
    """The table of score errors."""
    head = [f"{data} {t}" for data in ("G", "M") for t in ("t_min", "½", "1")]
    table = Table("process", "parametrization", *[f"{h}, f64" for h in head], *[f"{h}, f32" for h in head])
    rows = [(name, kind) for name in PROCESSES for kind in PARAMETRIZATIONS]
    for name, kind in track(rows, "scores", console=Console(stderr=True)):
        sde, parametrization = PROCESSES[name], PARAMETRIZATIONS[kind]
        table.add_row(
            name,
            kind,
            *[
                f"{score_error(sde, parametrization, data, t, dtype):.0e}"
                for dtype in (torch.float64, torch.float32)
                for data in (GAUSSIAN, MIXTURE)
                for t in times_of(sde).values()
            ],
        )
    return table


def tones(count: int, generator: torch.Generator) -> torch.Tensor:
    """Short decaying tones, (count, 1, 256)."""
    t = torch.arange(256) / 256
    hz, decay = (2 + 6 * torch.rand(2, count, 1, 1, generator=generator)).unbind(0)
    return 0.8 * (2 * torch.pi * hz * t).sin() * (-decay * t).exp()


def spread(objective: Objective, denoiser: Denoiser, batches: int) -> tuple[float, float]:
    """The summed variance of a batch's gradient, and the mean loss, over `batches` batches of 16."""
    parameters = list(denoiser.net.parameters())
    total, squares, losses = 0.0, 0.0, 0.0
    for i in range(batches):
        g = torch.Generator().manual_seed(1000 + i)
        x = tones(16, g)
        loss = objective.at(denoiser, x, objective.draw(denoiser.sde, x, g)).mean()
        gradient = torch.cat([p.flatten() for p in torch.autograd.grad(loss, parameters)]).double()
        total, squares = total + gradient, squares + gradient.square().sum()
        losses += float(loss) / batches
    mean = total / batches
    return float((squares / batches - mean.square().sum()) * batches / (batches - 1)), losses


def teach(time: ImportanceTime, objective: Loss, denoiser: Denoiser) -> None:
    """Show a law of times 120 batches."""
    for i in range(120):
        g = torch.Generator().manual_seed(i)
        x = tones(16, g)
        draw = objective.draw(denoiser.sde, x, g)
        with torch.no_grad():
            losses = objective.at(denoiser, x, replace(draw, weight=None))
        time.observe(denoiser.sde, draw.t, losses)


def trained(sde: SDE, objective: Objective, steps: int) -> Denoiser:
    """A small network some way into its training, with its process where that learns too."""
    torch.manual_seed(0)
    net = UNet(channels=(16, 32), factors=(4,), blocks=1, embedding=32, bottleneck="none", position=4)
    denoiser = Denoiser(net, sde, sigma_data=0.25)
    # A process has but a few hundred steps to bend in here.
    groups = [{"params": list(net.parameters())}, {"params": list(sde.parameters()), "lr": 2e-2}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], lr=2e-3)
    for i in track(range(steps), f"training on {type(sde).__name__}", console=Console(stderr=True)):
        g = torch.Generator().manual_seed(10_000 + i)
        optimizer.zero_grad()
        objective(denoiser, tones(16, g), generator=g).mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return denoiser


def variance(steps: int, batches: int) -> Table:
    """The table of gradient variances."""
    table = Table("objective", "times", "variance of the gradient", "ratio", "mean loss")
    bound, karras = LikelihoodWeight(), KarrasWeight()
    wide = LogNormalSigma(-3.0, 2.0)
    vdm, vp = VDM(), VP()
    vp.t_min = 1e-3  # from 1e-5 on the variance is that of one draw in a thousand, and no batches are enough
    cases = [
        ("the bound on VP from t = 1e-3, uniform t", vp, UniformTime(), bound, {}),
        ("KarrasWeight, log σ ~ N(-3, 2²)", EDM(2e-4, 20.0), wide, karras, {}),
        ("the bound, VDM as it begins", VDM().requires_grad_(False), UniformTime(), bound, {}),
        ("the bound, VDM as it was learned", vdm, UniformTime(), bound, {"learned": True}),
    ]
    for title, sde, law, weight, options in cases:
        denoiser = trained(sde, Loss(law, weight), steps)
        sde.requires_grad_(False)
        importance = ImportanceTime(law)
        teach(importance, Loss(importance, weight), denoiser)
        kinds = {
            "independent": Loss(law, weight, "independent"),
            "stratified": Loss(law, weight),
            "low discrepancy": Loss(law, weight, "low-discrepancy"),
            "importance, independent": Loss(importance, weight, "independent"),
            "importance, stratified": Loss(importance, weight),
        }
        if options.get("learned"):  # the same network on the straight schedule, for the ratio
            plain = Denoiser(denoiser.net, VDM().requires_grad_(False), sigma_data=0.25)
            reference, mean = spread(kinds["independent"], plain, batches)
            table.add_row(title, "straight γ, independent", f"{reference:.3g}", "1.00", f"{mean:.4g}")
        else:
            reference = None
        for name, objective in kinds.items():
            value, mean = spread(objective, denoiser, batches)
            reference = reference or value
            table.add_row(title, name, f"{value:.3g}", f"{value / reference:.2f}", f"{mean:.4g}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps before gradients are measured")
    parser.add_argument("--batches", type=int, default=400, help="batches of 16 that a variance is measured over")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = [accuracy(), variance(options.steps, options.batches)]
    for table in tables:
        Console(width=200).print(table)
    if options.markdown:
        options.markdown.write_text("\n".join(map(markdown, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()

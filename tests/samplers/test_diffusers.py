"""The same sounds as the schedulers of diffusers make, an independent implementation: `make oracles`."""

import pytest
import torch
from truth import Mixture, Oracle

from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM, DPMSolver2M, DPMSolver3M, DPMSolverSDE, Heun, KarrasGrid, TimesGrid
from diffwave_sde.sde import DDPM, EDM

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: make oracles")

# The chain of Ho et al. 2020. Their schedulers compute in float32, so 1e-5 is what can be asked.
CHAIN = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
SHAPE = (4, 1, 100)
# Smooth enough that float32 differences do not grow where a path turns to one component or the other.
DATA = Mixture((0.4, 0.6), (-0.3, 0.4), (0.3, 0.2))


def noise(seed, steps):
    """What a sampler of one block draws from stream(seed), step by step."""
    g = stream(seed)
    return [torch.randn(4, 1, 1, 100, generator=g, dtype=torch.float64)[:, 0].float() for _ in range(steps)]


def agree(ours, sde, scheduler, times, sample=True, step=lambda i: {}):
    """Run both from the same state, the denoiser called by theirs at `times`."""
    u, oracle = sde.prior(SHAPE, stream("start")).double(), Oracle(sde, DATA)
    x = u[:, 0].float()
    for i, (t, index) in enumerate(zip(times, scheduler.timesteps, strict=True)):
        D = oracle(x[:, None].double(), t.expand(4))
        # Where a scheduler knows no data prediction, it is asked for ε = (x - D) / σ.
        told = D if sample else (x.double() - D) / sde.kernel(t[None]).L[0, 0, 0]
        x = scheduler.step(told.float(), index, x, **step(i)).prev_sample
    torch.testing.assert_close(ours(oracle, u, generator=stream("noise")), x.double(), rtol=0, atol=1e-5)
    assert ours.nfe == len(times)


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(steps, eta):
    theirs = diffusers.DDIMScheduler(**CHAIN, prediction_type="sample", clip_sample=False)
    theirs.set_timesteps(steps)
    times = (theirs.timesteps.double() + 1) / 1000
    drawn = noise("noise", steps)
    ours = DDIM(steps, TimesGrid(times.tolist()), eta)
    agree(ours, DDPM(), theirs, times, step=lambda i: {"eta": eta, "variance_noise": drawn[i] if eta else None})


MULTISTEP = {
    "2M": (DPMSolver2M, {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "3M": (
        lambda n, grid: DPMSolver3M(n, grid, reference_coefficients=True),
        {"solver_order": 3, "algorithm_type": "dpmsolver++", "solver_type": "heun"},  # of its second step: the integral
    ),
    "SDE": (DPMSolverSDE, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
}


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("kind", MULTISTEP)
def test_dpm_solver(kind, steps, karras):
    make, options = MULTISTEP[kind]
    sde = DDPM()
    theirs = diffusers.DPMSolverMultistepScheduler(
        **CHAIN, **options, prediction_type="sample", lower_order_final=False, use_karras_sigmas=karras
    )
    theirs.set_timesteps(steps)
    theirs.sigmas = theirs.sigmas.double()  # their coefficients are differences, and small ones in few steps
    times = sde.time(theirs.sigmas[:-1] ** -2)
    expected = KarrasGrid()(sde, steps) if karras else (theirs.timesteps.double() + 1) / 1000
    torch.testing.assert_close(times, expected, rtol=1e-4, atol=1e-5)
    drawn = noise("noise", steps)
    agree(make(steps, TimesGrid(times.tolist())), sde, theirs, times, step=lambda i: {"variance_noise": drawn[i]})


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_heun(steps):
    theirs = diffusers.HeunDiscreteScheduler(**CHAIN, use_karras_sigmas=True)
    theirs.set_timesteps(steps)
    sigma = theirs.sigmas[:-1].double()
    sde = EDM(float(sigma[-1]), float(sigma[0]))
    times = sde.time(sigma**-2)
    ours = Heun(steps)
    torch.testing.assert_close(ours.grid(sde, steps), times[[0, *range(1, len(times), 2)]], rtol=1e-5, atol=1e-9)
    ours.grid = TimesGrid(times[[0, *range(1, len(times), 2)]].tolist())
    agree(ours, sde, theirs, times, sample=False)

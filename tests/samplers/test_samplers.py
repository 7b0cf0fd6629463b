import importlib
import itertools
import math
import pkgutil

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from truth import DEFAULTS, GAUSSIAN, MIXTURE, PROCESSES, SAMPLERS, Mixture, Oracle

import diffwave_sde.samplers as package
from diffwave_sde.audio import expand
from diffwave_sde.denoiser import Denoiser
from diffwave_sde.random import stream
from diffwave_sde.samplers import (
    DDIM,
    SSCS,
    Ancestral,
    DPMSolver3M,
    DPMSolverSDE,
    EulerMaruyama,
    Heun,
    KarrasGrid,
    LogSNRGrid,
    MaximumLikelihood,
    RePaint,
    Sampler,
    TimesGrid,
    UniformGrid,
)
from diffwave_sde.samplers.base import SamplingState
from diffwave_sde.sde import CLD, EDM, VP, apply, embed_waveform

# Every sampler with its defaults, and those whose options are other samplers.
KINDS = {
    **SAMPLERS,
    "RePaint": lambda steps=50, grid=None: RePaint(steps, grid, repeats=2),
    "RePaint-multistep": lambda steps=50, grid=None: RePaint(steps, grid, DPMSolverSDE(eta=0.3), repeats=2),
    "DDIM-half": lambda steps=50, grid=None: DDIM(steps, grid, eta=0.5),
    "DDIM-ancestral": lambda steps=50, grid=None: DDIM(steps, grid, eta=1.0),
    "EulerMaruyama-flow": lambda steps=50, grid=None: EulerMaruyama(steps, grid, eta=0.0),
    "Heun-churn": lambda steps=50, grid=None: Heun(steps, grid, churn=8.0),
    "Ancestral-large": lambda steps=50, grid=None: Ancestral(steps, grid, "large"),
    "MaximumLikelihood-variance-share": lambda steps=50, grid=None: MaximumLikelihood(steps, grid, 1.0),
    "DPMSolver3M-second-order-start": lambda steps=50, grid=None: DPMSolver3M(steps, grid, second_order_start=True),
    "DPMSolverSDE-half": lambda steps=20, grid=None: DPMSolverSDE(steps, grid, eta=0.5),
    "DPMSolverSDE-low-noise": lambda steps=20, grid=None: DPMSolverSDE(steps, grid, eta=0.3, eta_low_noise=1.0),
    "SSCS-BAB": lambda steps=50, grid=None: SSCS(steps, grid, "BAB"),
    "SSCS-ABBA": lambda steps=50, grid=None: SSCS(steps, grid, "ABBA"),
}
# Euler in t itself: on a grid that is fine at low noise it is far from any law, and Langevin dynamics are stiff.
RAW = ("EulerMaruyama", "EulerMaruyama-flow", "ReverseDiffusion", "Ancestral-large")
# What chooses its steps by the state is no linear map of it, and Langevin steps have a bias that no grid takes away.
LINEAR = [kind for kind in KINDS if kind not in ("PredictorCorrector", "AnnealedLangevin", "LangevinCorrector")]
# Those of the law of the data where D is a mean; the others want a consistency function (tests/distillation).
MEANS = [kind for kind in KINDS if KINDS[kind]().of_means]
LINEAR = [kind for kind in LINEAR if kind in MEANS]


# Samplers that need hundreds of steps: where it takes long, on four processes only.
SLOW, FOUR = (*RAW, "AnnealedLangevin", "RePaint"), ("EDM", "VP", "DDPM", "CLD")


def pairs(processes, kinds=KINDS, slow=None):
    """Every sampler with every process that it takes; the slow ones with `slow` of them, other options with FOUR."""
    both = [(kind, name) for kind in kinds for name in processes if KINDS[kind]().supports(PROCESSES[name])]
    both = [(kind, name) for kind, name in both if kind in SAMPLERS or name in FOUR]
    both = [(kind, name) for kind, name in both if slow is None or kind not in SLOW or name in slow]
    return pytest.mark.parametrize(("kind", "name"), both)


def start(sde, shape, data=None, t=None, seed=0):
    """States at t (t_max), float64: of the prior, or exactly of the law of the data."""
    g = torch.Generator().manual_seed(seed)
    if data is None:
        return sde.prior(shape, g).double()
    eps = torch.randn(shape[0], sde.blocks, *shape[1:], generator=g, dtype=torch.float64)
    kernel = sde.kernel(torch.full((1,), sde.t_max if t is None else t, dtype=torch.float64))
    return kernel.sample(data.sample(shape, g), eps)


# -------------------------------------------------------------------------------------- order


@pytest.fixture
def variance_made(monkeypatch):
    """The variance of what a sampler makes of Gaussian data of mean zero, without any sampling.

    With a linear denoiser, a sampler is a linear map of its start and of every normal number that it draws. One example
    of the batch answers each of them; the squares add up to the variance, stochastic samplers included.
    """
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]

    def made(sampler, sde, data, t=None):
        blocks, drawn = sde.blocks, 0
        draws = 3 if isinstance(sampler, RePaint) else 2  # in a step, at the most
        rows = blocks * (1 + draws * sampler.steps)
        kernel = sde.kernel(torch.tensor([sde.t_max if t is None else t], dtype=torch.float64))
        covariance = kernel.L[0] @ kernel.L[0].mT + data.variance * kernel.M[0][:, None] * kernel.M[0]
        u = torch.zeros(rows, blocks, 1, 1, dtype=torch.float64)
        u[:blocks, :, 0, 0] = torch.linalg.cholesky(covariance).mT

        def unit(shape, generator=None, dtype=None, device=None):
            nonlocal drawn
            drawn += 1
            z = torch.zeros(shape, dtype=torch.float64)
            for s in range(blocks):
                z[drawn * blocks + s, s] = 1
            return z

        for module in modules:
            if hasattr(module, "randn"):
                monkeypatch.setattr(module, "randn", unit)
        return float(sampler(Oracle(sde, data), u).square().sum())

    return made


def exact_variance(sde, data, t=None):
    """The variance of E[x | u_t]: what a sampler without error ends with, at t_min."""
    snr = float(sde.kernel(torch.tensor([sde.t_min if t is None else t], dtype=torch.float64)).snr)
    return data.variance**2 * snr / (1 + data.variance * snr)


@pairs(PROCESSES, LINEAR)
def test_order_is_the_one_stated(variance_made, kind, name):
    # Between the noise levels 2 and 0.2: over the whole range leading errors may cancel (VE has order 2 for Euler).
    sde = PROCESSES[name]
    # The flow's leading error cancels there for VP and its like.
    ends = (0.05, 400.0) if kind == "EulerMaruyama-flow" else (0.25, 25.0)
    high, low = sde.time(torch.tensor(ends)).tolist()
    truth = exact_variance(sde, GAUSSIAN, low)
    counts = (64, 128)
    if kind.startswith("DPM") or (kind in RAW and name == "CLD-overdamped"):
        counts = (200, 400)  # where they begin is not yet forgotten
    errors = []
    for n in counts:
        sampler = KINDS[kind](n + 1, TimesGrid(torch.linspace(high, low, n + 1, dtype=torch.float64).tolist()))
        errors.append(abs(variance_made(sampler, sde, GAUSSIAN, high) / truth - 1))
    if kind == "MaximumLikelihood-variance-share":  # on Gaussian data exact, in any number of steps
        assert max(errors) < 1e-8
        return
    if max(errors) < 1e-6 and kind.startswith("DPM"):
        return  # on equal steps of the log-SNR, and for such data, better than it says
    slope = math.log2(errors[-2] / errors[-1])
    if kind.startswith("DPMSolver3M") and errors[-1] < 1e-6:
        assert slope > sampler.order - 0.3
        return
    assert abs(slope - sampler.order) < 0.3, (errors, slope)


@pairs(DEFAULTS, LINEAR)
def test_variance_converges_over_the_whole_range(variance_made, kind, name):
    sde = PROCESSES[name]
    truth = exact_variance(sde, GAUSSIAN)
    counts = (200, 1000) if kind in RAW and name == "CLD" else (60, 240)
    coarse, fine = (abs(variance_made(KINDS[kind](n), sde, GAUSSIAN) / truth - 1) for n in counts)
    assert fine < max(0.4 * coarse, 0.005)
    assert fine < (0.15 if KINDS[kind]().order == 1 else 0.02)


@pairs(DEFAULTS, MEANS, slow=FOUR)
def test_a_mixture_is_sampled_in_its_own_proportions(kind, name):
    sde = PROCESSES[name]
    n = 4000
    sampler = KINDS[kind](40 if KINDS[kind]().order > 1 else 800 if kind in SLOW else 200)
    x = sampler(Oracle(sde, MIXTURE), start(sde, (1, 1, n)), generator=stream(1)).flatten()
    data = MIXTURE.sample((100 * n,), torch.Generator().manual_seed(3))
    distance = (x.sort().values - data.sort().values[50::100]).abs().mean()
    # The Wasserstein distance of n samples of the law from the law itself is 0.008 in the mean.
    assert distance < 0.03
    left = ((x + 0.8).abs() < 0.25).double().mean()
    assert abs(float(left) - 0.3) < 0.03


# -------------------------------------------------------------------------------------- textbook recursions


def test_heun_is_algorithm_1_of_edm():
    # Karras et al. 2022, algorithm 1 with eq. 5's σ_i, written down on its own: 18 steps, 35 calls.
    sde, n, rho = EDM(0.002, 80.0), 18, 7
    sigma = [(80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(n)] + [0.0]

    def D(x, s):
        return MIXTURE.denoise(sde, x, torch.full((len(x),), s / 80, dtype=torch.float64))[:, None]

    u = start(sde, (3, 1, 20))
    x, calls = u, 0
    for a, b in itertools.pairwise(sigma):
        d = (x - D(x, a)) / a
        calls += 1
        euler = x + (b - a) * d
        if b > 0:
            d = (d + (euler - D(euler, b)) / b) / 2
            calls += 1
        x = x + (b - a) * d
    sampler = Heun(n)
    torch.testing.assert_close(sampler(Oracle(sde, MIXTURE), u), x[:, 0], rtol=1e-8, atol=1e-9)
    assert sampler.nfe == calls == 35


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_equation_12(monkeypatch, eta):
    # Song, Meng and Ermon 2021, eq. 12 and 16, with α their cumulative product.
    sde = VP()
    times = UniformGrid()(sde, 30)
    alpha = (-(0.1 * times + 0.5 * 19.9 * times**2)).exp().tolist()
    u = start(sde, (3, 1, 20))
    g = torch.Generator().manual_seed(4)
    x = u[:, 0]
    for i in range(29):
        a, b = alpha[i], alpha[i + 1]
        D = MIXTURE.denoise(sde, x[:, None], times[i].expand(3))
        eps = (x - math.sqrt(a) * D) / math.sqrt(1 - a)
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        x = math.sqrt(b) * D + math.sqrt(1 - b - sigma**2) * eps
        if eta:
            x = x + sigma * torch.randn(3, 1, 1, 20, generator=g, dtype=torch.float64)[:, 0]
    x = MIXTURE.denoise(sde, x[:, None], times[-1].expand(3))
    got = DDIM(30, UniformGrid(), eta)(Oracle(sde, MIXTURE), u, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DEFAULTS)
def test_euler_maruyama_is_equation_6_of_song(name):
    # One step at a time from the exact score, found by automatic differentiation.
    sde = PROCESSES[name]
    times = KarrasGrid()(sde, 6)
    u = start(sde, (1, 1, 15))
    g = torch.Generator().manual_seed(4)
    state = u[0, :, 0].T  # (T, S)
    for t, after in itertools.pairwise(times):
        dt, F, noise = after - t, sde.drift(t[None])[0], sde.diffusion(t[None])[0]
        z = torch.randn(1, sde.blocks, 1, 15, generator=g, dtype=torch.float64)[0, :, 0].T
        reverse = state @ F.T - (MIXTURE.score(sde, state, float(t)) @ noise)[:, None] * noise
        state = state + dt * reverse + noise * dt.abs().sqrt() * z
    x = MIXTURE.denoise(sde, state.T[None, :, None], times[-1:])
    got = EulerMaruyama(6)(Oracle(sde, MIXTURE), u, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(got, x, rtol=1e-6, atol=1e-6)


# The deterministic ones, and steps enough for 3 thousandths. Where S = 2 a state holds more than the probability flow
# tells apart, and DDIM and Heun follow another flow of the same marginals (ode.py).
FLOWS = {
    "DDIM": 3000,
    "Heun": 200,
    "EulerMaruyama-flow": 3000,
    "DPMSolver2M": 300,
    "DPMSolver3M": 300,
    "DPMSolver2S": 300,
}


@pytest.mark.parametrize("data", [GAUSSIAN, Mixture((0.4, 0.6), (-0.3, 0.4), (0.3, 0.2))], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", FOUR)
def test_deterministic_samplers_find_the_same_sound(name, data):
    sde = PROCESSES[name]
    u = start(sde, (1, 1, 60), data)
    fine = Heun(400)(Oracle(sde, data), u)
    for kind, steps in FLOWS.items():
        if not KINDS[kind]().supports(sde) or (sde.blocks > 1 and kind == "EulerMaruyama-flow"):
            continue
        x = KINDS[kind](steps)(Oracle(sde, data), u)
        assert float((x - fine).abs().max()) < 3e-3, kind


@pytest.mark.parametrize("name", [n for n in DEFAULTS if PROCESSES[n].blocks == 1])
def test_of_gaussian_data_the_flow_is_known(name):
    # Every state stays at its quantile.
    sde = PROCESSES[name]
    u = start(sde, (1, 1, 60), GAUSSIAN)
    ends = sde.kernel(torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64))
    spread = (0.25 * ends.M[:, 0] ** 2 + ends.L[:, 0, 0] ** 2).sqrt()
    last = u * spread[1] / spread[0]
    known = GAUSSIAN.denoise(sde, last, torch.tensor([sde.t_min], dtype=torch.float64))
    torch.testing.assert_close(Heun(300)(Oracle(sde, GAUSSIAN), u), known, rtol=0, atol=2e-3)
    torch.testing.assert_close(DDIM(600)(Oracle(sde, GAUSSIAN), u), known, rtol=0, atol=0.03)


# -------------------------------------------------------------------------------------- what a listener hears


@pairs(PROCESSES)
def test_silence_is_silent(kind, name):
    # A set of sounds one of which is silence: whatever the noise was, none of it may be left in the tail.
    sde = PROCESSES[name]
    data = Mixture((0.5, 0.5), (0.0, 0.8), (1e-7, 1e-7))
    stiff = kind == "EulerMaruyama" and name == "CLD-overdamped"
    x = KINDS[kind](600 if stiff else 60)(Oracle(sde, data), start(sde, (1, 1, 2000)).float(), generator=stream(0))
    quiet = x[x.abs() < 0.4]
    assert len(quiet) > 600
    floor = 20 * math.log10(float(expand(quiet).abs().square().mean().sqrt()) + 1e-12)
    assert floor < -90, f"{floor:.0f} dBFS"


def test_noisy_states_are_never_clamped(default_sde):
    # The states that the denoiser sees are as wide as the process says, from the first to the last.
    seen = []

    class Watch(Oracle):
        def predict(self, u, t, condition=None):
            seen.append((float(u[:, 0].std()), float(self.sde.kernel(t).M[0, 0]), float(self.sde.kernel(t).L[0, 0, 0])))
            return super().predict(u, t, condition)

    loud = Mixture((1.0,), (0.0,), (3.0,))
    DDIM(60)(Watch(default_sde, loud), start(default_sde, (1, 1, 4000), loud))
    for std, mean, sigma in seen:
        assert std == pytest.approx(math.hypot(3 * mean, sigma), rel=0.2)


# -------------------------------------------------------------------------------------- one sound among others


@pairs(DEFAULTS)
def test_a_sound_does_not_depend_on_its_batch_nor_on_its_size(kind, name):
    sde = PROCESSES[name]
    sampler, denoiser = KINDS[kind](8), Oracle(sde, MIXTURE)

    def sounds(numbers):
        generators = [stream("sampling", n) for n in numbers]
        u = sde.prior((len(numbers), 1, 50), generators)
        return dict(zip(numbers, sampler(denoiser, u, generator=generators), strict=True))

    together, others, alone = sounds([0, 1, 2, 3]), sounds([9, 2, 7]), sounds([2])
    assert torch.equal(together[2], alone[2])
    assert torch.equal(others[2], alone[2])
    assert not torch.equal(together[1], together[2])


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_counted_and_steps_reported(kind):
    sde = VP()
    for steps in (2, 3, 11):
        sampler, denoiser, reports = KINDS[kind](steps), Oracle(sde, GAUSSIAN), []
        for _ in range(2):  # of the last run, not of all of them
            denoiser.calls = 0
            reports.clear()
            sampler(denoiser, start(sde, (2, 1, 4)), progress=lambda *report, r=reports: r.append(report))
        assert sampler.nfe == denoiser.calls > 0
        assert reports == [(i, steps) for i in range(1, steps + 1)]


def test_calls_per_step_are_those_stated():
    for sampler, calls in ((DDIM(20), 20), (EulerMaruyama(20), 20), (Heun(20), 39)):
        sampler(Oracle(VP(), GAUSSIAN), start(VP(), (1, 1, 4)))
        assert sampler.nfe == calls


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_said_to_be_linear_is_the_one_told(kind):
    sampler, sde = KINDS[kind](4), VP()
    plan = sampler.plan(Oracle(sde, GAUSSIAN), sampler.grid(sde, 4))
    if not sampler.is_linear:
        with pytest.raises(TypeError, match=type(sampler).__name__):
            sampler.linear(plan[0])
        return
    u, eps, *D = (torch.randn(2, 1, 1, 5, dtype=torch.float64) for _ in range(4))
    state = SamplingState(Oracle(sde, GAUSSIAN), None, None, nodes=lambda u, i, condition: (D[i][:, 0], None))
    for i in (0, 1):
        state.drawn = iter([eps])
        A, a, b, c = sampler.linear(plan[i])
        expected = apply(A, u) + embed_waveform(a, D[i][:, 0])
        if b is not None and i:
            expected = expected + embed_waveform(b, (D[i] - D[i - 1])[:, 0])
        if c is not None:
            expected = expected + apply(c, eps)
        torch.testing.assert_close(sampler.step(state, u, i, plan[i]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_condition_and_the_type_are_carried_through(kind):
    asked = []

    class Net(Oracle):
        def predict(self, u, t, condition=None):
            asked.append(condition)
            assert u.dtype == torch.float32
            assert t.shape == (2,)
            return super().predict(u, t)

    sde = CLD() if KINDS[kind]().supports(CLD()) else VP()
    x = KINDS[kind](4)(Net(sde, GAUSSIAN), start(sde, (2, 1, 4)).float(), condition="this")
    assert x.shape == (2, 1, 4)
    assert x.dtype == torch.float32
    assert set(asked) == {"this"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_never_waits_for_the_device(kind):
    # On the device "meta", which holds no numbers, whatever would have to read one fails; and nothing is copied to it.
    class Net(nn.Module):
        def forward(self, u, noise, condition=None):
            copies.append(0)
            return 0.1 * u[:, :1] + noise[:, None, None]

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            devices = {a.device.type for a in (*args, out) if isinstance(a, Tensor) and a.ndim}
            if copies and len(devices) > 1:
                copies[-1] += 1
            return out

    copies: list[int] = []
    sde = CLD() if KINDS[kind]().supports(CLD()) else VP()
    denoiser = Denoiser(Net(), sde).to("meta")
    denoiser.sigma_data = torch.tensor(0.5)  # read before the loop
    with Copies():
        x = KINDS[kind](6)(denoiser, torch.empty(2, sde.blocks, 1, 40, device="meta"))
    assert x.device.type == "meta"
    assert len(copies) >= 6
    assert sum(copies) == 0


def test_a_state_of_another_process_is_refused():
    with pytest.raises(ValueError, match="CLD needs"):
        DDIM(4)(Oracle(CLD(), GAUSSIAN), start(VP(), (2, 1, 4)))
    with pytest.raises(ValueError, match="VP needs"):
        DDIM(4)(Oracle(VP(), GAUSSIAN), start(VP(), (2, 1, 4))[:, 0])


def test_a_process_that_cannot_be_taken_is_refused_by_name():
    class ScalarOnly(Sampler):
        def supports(self, sde):
            return sde.blocks == 1

        def solve(self, state, u, progress):
            raise AssertionError("not reached")

    with pytest.raises(ValueError, match=r"ScalarOnly cannot take the process CLD.*these can: .*DDIM.*Heun") as error:
        ScalarOnly()(Oracle(CLD(), GAUSSIAN), start(CLD(), (2, 1, 4)))
    assert "\n" not in str(error.value)
    assert "ScalarOnly" not in str(error.value).split("these can")[1]
    assert "ScalarOnly" not in SAMPLERS


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_steps_than_a_sampler_needs_are_refused(kind):
    few = KINDS[kind]().fewest - 1
    assert few == (0 if kind == "ConsistencySampler" else 1)
    with pytest.raises(ValueError, match=f"steps = {few}"):
        KINDS[kind](few)


def test_a_share_of_noise_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="eta"):
        DDIM(4, eta=1.5)


@pytest.mark.parametrize("grid", [UniformGrid(), LogSNRGrid(), KarrasGrid()])
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_takes_every_grid(kind, grid):
    steps = 60 if kind == "AnnealedLangevin" else 20
    x = KINDS[kind](steps, grid)(Oracle(VP(), GAUSSIAN), start(VP(), (1, 1, 100)), generator=stream(0))
    assert x.isfinite().all()
    assert x.abs().max() < 5

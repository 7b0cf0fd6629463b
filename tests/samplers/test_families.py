"""Samplers against the recursions of their papers, written down one by one."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from truth import DEFAULTS, GAUSSIAN, MIXTURE, PROCESSES, Mixture, Oracle, tensor

from diffwave_sde.audio import expand
from diffwave_sde.random import stream
from diffwave_sde.samplers import (
    DDIM,
    SSCS,
    Ancestral,
    AnnealedLangevin,
    CrashGrid,
    DiscreteGrid,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolverSDE,
    EulerMaruyama,
    GottaGoFast,
    Heun,
    LogSNRGrid,
    MaximumLikelihood,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    TimesGrid,
    UniformGrid,
)
from diffwave_sde.sde import CLD, DDPM, EDM, NCSN, VE, VP, CrashVP


def start(sde, batch=3, length=20, seed=0):
    return sde.prior((batch, 1, length), torch.Generator().manual_seed(seed)).double()


def D(sde, x, t):
    """The exact denoiser at a state (B, 1, T) and one time."""
    return MIXTURE.denoise(sde, x[:, None], torch.full((len(x),), float(t), dtype=torch.float64))


def z(generator, like):
    return torch.randn(like[:, None].shape, generator=generator, dtype=torch.float64)[:, 0]


def run(sampler, sde, u, seed=4):
    return sampler(Oracle(sde, MIXTURE), u, generator=torch.Generator().manual_seed(seed))


def same(a, b, tolerance=1e-8):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------------- ancestral


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [100, 12])
def test_ancestral_sampling_is_that_of_ho_also_strided(variance, steps):
    # Ho et al. 2020, algorithm 2 with eq. 7; strided as Nichol and Dhariwal 2021, § 4: β from the kept ᾱ.
    sde = DDPM(100, "cosine")
    keep = (DiscreteGrid()(sde, steps) * 100).round().long() - 1
    bar = torch.tensor(1 - sde.beta).cumprod(0)[keep].tolist()
    u, g = start(sde), torch.Generator().manual_seed(4)
    x = u[:, 0]
    for i in range(steps - 1):
        beta = 1 - bar[i] / bar[i + 1]
        clean = D(sde, x, (keep[i] + 1) / 100)
        eps = (x - math.sqrt(bar[i]) * clean) / math.sqrt(1 - bar[i])
        mean = (x - beta / math.sqrt(1 - bar[i]) * eps) / math.sqrt(1 - beta)
        tilde = (1 - bar[i + 1]) / (1 - bar[i]) * beta
        x = mean + math.sqrt(tilde if variance == "small" else beta) * z(g, x)
    expected = D(sde, x, (keep[-1] + 1) / 100)
    same(run(Ancestral(steps, DiscreteGrid(), variance), sde, u), expected, 1e-6)


class Spread(Oracle):
    """The exact denoiser, with a place of the variance."""

    share = 0.0

    def nodes(self, times, like):
        def at(u, i, condition=None):
            clean = self(u, times[i].expand(len(u)))
            return clean, torch.full_like(clean, self.share)

        return at


@pytest.mark.parametrize(("share", "like"), [(0.0, "small"), (1.0, "large")])
def test_a_learned_variance_lies_between_the_two(share, like):
    sde = DDPM(100, "cosine")
    u, oracle = start(sde), Spread(sde, MIXTURE)
    oracle.share = share
    got = Ancestral(20, variance="learned")(oracle, u, generator=torch.Generator().manual_seed(4))
    same(got, run(Ancestral(20, variance=like), sde, u), 1e-6)


def test_a_learned_variance_is_that_of_the_paper():
    # Nichol and Dhariwal 2021, eq. 15, in one step between two times.
    sde, t, s = VP(), 0.7, 0.5
    kernel, (phi, Q) = sde.posterior(tensor(s), tensor(t)), sde.transition(tensor(s), tensor(t))
    u, oracle = start(sde), Spread(sde, GAUSSIAN)
    oracle.share = 0.3
    seen = []
    oracle.data = type(
        "Watch", (), {"denoise": lambda self, sde, u, t: seen.append(u) or GAUSSIAN.denoise(sde, u, t)}
    )()
    Ancestral(2, TimesGrid([t, s]), "learned")(oracle, u, generator=torch.Generator().manual_seed(4))
    gain, signal, small = (a.flatten()[0] for a in kernel)
    mean = gain * u + signal * GAUSSIAN.denoise(sde, u, tensor(t).expand(3))[:, None]
    noise = torch.randn(u.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    variance = (0.3 * Q[0, 0, 0].log() + 0.7 * small.log()).exp()
    same(seen[1], mean + variance.sqrt() * noise)
    assert phi < 1


def test_without_a_learned_variance_it_says_so():
    with pytest.raises(ValueError, match="choose small or large"):
        run(Ancestral(4, variance="learned"), VP(), start(VP()))
    with pytest.raises(ValueError, match="small, large or learned"):
        Ancestral(variance="none")


def test_crash_s_samplers_are_ddim_s():
    # Rouard and Hadjeres 2021: in x/m and σ/m, the ODE and the SDE; written as in their released code.
    sde, n = CrashVP(), 25
    t = sde.t_min + (sde.t_max - sde.t_min) * torch.arange(1, n + 1, dtype=torch.float64) / n
    kernel = sde.kernel(t)
    m, sigma = kernel.M[:, 0].tolist(), kernel.L[:, 0, 0].tolist()
    for eta in (0.0, 1.0):
        u, g = start(sde), torch.Generator().manual_seed(4)
        x = u[:, 0]
        for i in range(n - 1, 0, -1):
            eps = (x - m[i] * D(sde, x, t[i])) / sigma[i]
            ratio = m[i - 1] / m[i]
            if eta:
                left = sigma[i - 1] * math.sqrt(1 - (sigma[i - 1] / (sigma[i] * ratio)) ** 2)
                x = ratio * x + (sigma[i - 1] ** 2 / (ratio * sigma[i]) - ratio * sigma[i]) * eps + left * z(g, x)
            else:
                x = ratio * x + (sigma[i - 1] - sigma[i] * ratio) * eps
        same(run(DDIM(n, CrashGrid(), eta), sde, u), D(sde, x, t[0]), 1e-6)


def test_the_likeliest_step_is_that_of_popov():
    # Popov et al. 2022, theorem 1 and eq. 9 to 12, for VP: γ_{s,t} = exp(-½ ∫β).
    sde, times = VP(), UniformGrid()(VP(), 8)
    g = sde.kernel(times).M[:, 0].tolist()
    u, generator = start(sde), torch.Generator().manual_seed(4)
    x = u[:, 0]
    for i in range(7):
        gt, gs = g[i], g[i + 1]
        between = gt / gs
        mu = between * (1 - gs**2) / (1 - gt**2)
        nu = gs * (1 - between**2) / (1 - gt**2)
        sigma2 = (1 - gs**2) * (1 - between**2) / (1 - gt**2)
        left = 1 / (1 / MIXTURE.variance + gt**2 / (1 - gt**2))
        x = mu * x + nu * D(sde, x, times[i]) + math.sqrt(sigma2 + nu**2 * left) * z(generator, x)
    same(run(MaximumLikelihood(8, UniformGrid(), 1.0), sde, u), D(sde, x, times[-1]), 1e-6)


# -------------------------------------------------------------------------------------- Song


def test_reverse_diffusion_on_ve_is_equation_47_of_song():
    sde = NCSN(steps=40)
    sigma = np.geomspace(0.01, 50.0, 40).tolist()
    u, g = start(sde), torch.Generator().manual_seed(4)
    x = u[:, 0]
    for i in range(39, 0, -1):
        score = (D(sde, x, (i + 1) / 40) - x) / sigma[i] ** 2
        more = sigma[i] ** 2 - sigma[i - 1] ** 2
        x = x + more * score + math.sqrt(more) * z(g, x)
    same(run(ReverseDiffusion(40, DiscreteGrid()), sde, u), D(sde, x, 1 / 40), 1e-6)


def test_reverse_diffusion_on_ddpm_is_equation_46_of_song():
    sde = DDPM(50, "cosine")
    u, g = start(sde), torch.Generator().manual_seed(4)
    x, bar = u[:, 0], np.cumprod(1 - sde.beta)
    for i in range(49, 0, -1):
        score = (math.sqrt(bar[i]) * D(sde, x, (i + 1) / 50) - x) / (1 - bar[i])
        x = (2 - math.sqrt(1 - sde.beta[i])) * x + sde.beta[i] * score + math.sqrt(sde.beta[i]) * z(g, x)
    same(run(ReverseDiffusion(50, DiscreteGrid()), sde, u), D(sde, x, 1 / 50), 1e-6)


def test_the_corrector_goes_by_each_sound_s_own_norms():
    # Song et al. 2021, algorithm 4, after a predictor's step.
    sde, times = VE(), LogSNRGrid()(VE(), 10)
    sigma = sde.sigma(times).tolist()
    u, g = start(sde), torch.Generator().manual_seed(4)
    x = u[:, 0]
    for i in range(9):
        clean = D(sde, x, times[i])
        x = clean + sigma[i + 1] / sigma[i] * (x - clean)  # DDIM for a predictor
        score, noise = (D(sde, x, times[i + 1]) - x) / sigma[i + 1] ** 2, z(g, x)
        size = 2 * (0.16 * noise.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)) ** 2
        x = x + size[:, None, None] * score + (2 * size).sqrt()[:, None, None] * noise
    sampler = PredictorCorrector(10, LogSNRGrid(), DDIM())
    same(run(sampler, sde, u), D(sde, x, times[-1]), 1e-6)
    assert sampler.nfe == 19


def test_a_predictor_with_nodes_of_its_own_keeps_them():
    sde = VP()
    plain = run(Heun(12, churn=5.0), sde, start(sde))
    same(run(PredictorCorrector(12, predictor=Heun(3, churn=5.0), corrections=0), sde, start(sde)), plain)
    halves = run(DPMSolver2S(9), sde, start(sde))
    same(run(PredictorCorrector(9, LogSNRGrid(), DPMSolver2S(3), corrections=0), sde, start(sde)), halves)


def test_annealed_langevin_dynamics_are_those_of_song_and_ermon():
    # Song and Ermon 2019, algorithm 1: α_i = ε σ_i² / σ_L², x ← x + ½ α s + √α z.
    sde = NCSN(steps=15)
    sigma = np.geomspace(0.01, 50.0, 15).tolist()
    u, g = start(sde), torch.Generator().manual_seed(4)
    x, epsilon = u[:, 0], 2e-5
    for i in range(13, -1, -1):
        alpha = epsilon * sigma[i] ** 2 / sigma[0] ** 2
        for _ in range(3):
            score = (D(sde, x, (i + 1) / 15) - x) / sigma[i] ** 2
            x = x + 0.5 * alpha * score + math.sqrt(alpha) * z(g, x)
    sampler = AnnealedLangevin(15, DiscreteGrid(), repeats=3, step=epsilon / 0.01**2)
    same(run(sampler, sde, u), D(sde, x, 1 / 15), 1e-6)
    assert sampler.nfe == 14 * 3 + 1


# -------------------------------------------------------------------------------------- Karras, Lu


def test_churning_is_algorithm_2_of_edm():
    sde, n = EDM(0.002, 80.0), 18
    sigma = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)]
    u, g = start(sde), torch.Generator().manual_seed(4)
    x = u[:, 0]
    for now, then in itertools.pairwise(sigma):
        gamma = min(40 / n, math.sqrt(2) - 1) if 0.05 <= now <= 50 else 0.0
        raised = now * (1 + gamma)
        x = x + math.sqrt(raised**2 - now**2) * 1.003 * z(g, x)
        d = (x - D(sde, x, raised / 80)) / raised
        euler = x + (then - raised) * d
        x = x + (then - raised) * 0.5 * (d + (euler - D(sde, euler, then / 80)) / then)
    sampler = Heun(n, churn=40.0, churn_min=0.05, churn_max=50.0, churn_noise=1.003)
    same(run(sampler, sde, u), D(sde, x, 0.002 / 80), 1e-6)
    with pytest.raises(ValueError, match="churn_min"):
        Heun(churn_min=2.0, churn_max=1.0)


def test_dpm_solver_2m_is_algorithm_2_of_lu():
    sde, times = VP(), LogSNRGrid()(VP(), 12)
    kernel = sde.kernel(times)
    alpha, sigma = kernel.M[:, 0], kernel.L[:, 0, 0]
    lam = (alpha / sigma).log()
    u = start(sde)
    x, last = u[:, 0], None
    for i in range(11):
        h, clean = lam[i + 1] - lam[i], D(sde, x, times[i])
        mixed = clean
        if last is not None:
            r = (lam[i] - lam[i - 1]) / h
            mixed = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * last
        x, last = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * mixed, clean
    same(run(DPMSolver2M(12), sde, u), D(sde, x, times[-1]), 1e-6)


# The steps that begin below σ = 0.9 are of the second η; None for that of all.
@pytest.mark.parametrize(
    ("high", "quiet"), [(0.0, None), (0.3, None), (1.0, None), (1.5, None), (0.3, 1.0), (0.0, 1.0), (1.0, 0.0)]
)
@pytest.mark.parametrize("noise", [1.0, 1.1])
def test_sde_dpm_solver_is_that_of_lu_and_of_xue(high, quiet, noise):
    sde, times = VP(), LogSNRGrid()(VP(), 12)
    kernel = sde.kernel(times)
    alpha, sigma = kernel.M[:, 0], kernel.L[:, 0, 0]
    lam = (alpha / sigma).log()
    u, generator = start(sde), torch.Generator().manual_seed(4)
    x, last = u[:, 0], None
    for i in range(11):
        h, clean = lam[i + 1] - lam[i], D(sde, x, times[i])
        mixed = clean if last is None else clean + h / (lam[i] - lam[i - 1]) / 2 * (clean - last)
        eta = high if quiet is None or sigma[i] / alpha[i] >= 0.9 else quiet
        fresh = z(generator, x) if high or quiet else 0
        x = sigma[i + 1] / sigma[i] * (-eta * h).exp() * x - alpha[i + 1] * torch.expm1(-(1 + eta) * h) * mixed
        x, last = x + noise * sigma[i + 1] * (1 - (-2 * eta * h).exp()).sqrt() * fresh, clean
    same(run(DPMSolverSDE(12, None, high, quiet, 0.9, noise), sde, u), D(sde, x, times[-1]), 1e-6)
    if not (high or quiet):
        same(run(DPMSolverSDE(12, eta=0.0), sde, u), run(DPMSolver2M(12), sde, u), 1e-12)


def test_dpm_solver_2s_is_algorithm_1_of_lu():
    sde, times = VP(), LogSNRGrid()(VP(), 6)
    kernel = sde.kernel(times)
    alpha, sigma = kernel.M[:, 0], kernel.L[:, 0, 0]
    lam = (alpha / sigma).log()
    u = start(sde)
    x = u[:, 0]
    for i in range(5):
        h = lam[i + 1] - lam[i]
        s = sde.time((2 * (lam[i] + 0.5 * h)).exp()[None])
        half = sde.kernel(s)
        middle = half.L[0, 0, 0] / sigma[i] * x - half.M[0, 0] * torch.expm1(-0.5 * h) * D(sde, x, times[i])
        clean = D(sde, middle, s[0])  # r = ½: (1 - 1/2r) D(x) + 1/2r D(middle)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * clean
    sampler = DPMSolver2S(6)
    same(run(sampler, sde, u), D(sde, x, times[-1]), 1e-6)
    assert sampler.nfe == 11


# -------------------------------------------------------------------------------------- splitting


def test_the_known_part_of_the_splitting_is_exact_for_any_beta():
    # Dockhorn et al. 2022, eq. 14: du = A du/db + ..., its exponential and its covariance by Van Loan, over ∫β.
    sde = CLD(beta_min=2.0, beta_max=9.0, friction=0.8)
    times = UniformGrid()(sde, 5)
    plan = SSCS(5, UniformGrid()).plan(Oracle(sde, GAUSSIAN), times)
    A = np.array([[0.0, -4.0], [1.0, -4.0 * 0.8]])
    assert [len(row) for row in plan] == [4, 4, 4, 6]
    # From t_max to the middle of the first step, from middle to middle, and from the last one home.
    middles = [float(times[0]), *((times[1:] + times[:-1]) / 2).tolist(), float(times[-1])]
    for i, row in enumerate(plan):
        for k, (phi, root) in enumerate((row[:2], row[4:])[: len(row) // 2 - 1]):
            late, early = middles[i + k], middles[i + k + 1]
            b = 2.0 * (late - early) + 3.5 * (late**2 - early**2)
            block = expm(np.block([[-A, np.diag([0, 1.6])], [np.zeros((2, 2)), A.T]]) * b)
            flow = block[2:, 2:].T
            same(phi[0], torch.tensor(flow), 1e-9)
            same(root[0] @ root[0].mT, torch.tensor(flow @ block[:2, 2:]), 1e-9)


STATIONARY = {
    "CLD": CLD(gamma=1.0),
    "CLD-underdamped": CLD(gamma=1.0, friction=0.4, beta_max=30.0),
    "VP": VP(),
    "CosineVP": PROCESSES["CosineVP"],
}


@pytest.mark.parametrize("splitting", ["ABA", "BAB", "ABBA"])
@pytest.mark.parametrize("name", STATIONARY)
def test_where_the_data_are_the_stationary_law_the_splitting_keeps_it(splitting, name):
    # White noise of unit variance: the score is that of the stationary law at all times, and few steps are enough.
    sde = STATIONARY[name]
    data = Mixture((1.0,), (0.0,), (1.0,))
    u = sde.prior((1, 1, 60_000), torch.Generator().manual_seed(0)).double()
    x = SSCS(6, UniformGrid(), splitting)(Oracle(sde, data), u, generator=torch.Generator().manual_seed(1))
    assert float(x.std()) == pytest.approx(1.0, abs=0.015)


def test_a_splitting_step_is_its_parts():
    sde, times = CLD(), UniformGrid()(CLD(), 4)
    u = start(sde)
    phi, Q = sde.transition(times[1:], times[:-1])
    mirror = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    for splitting, calls in (("ABA", 4), ("BAB", 7), ("ABBA", 7)):
        sampler = SSCS(4, UniformGrid(), splitting)
        run(sampler, sde, u)
        assert sampler.nfe == calls
    plan = SSCS(4, UniformGrid(), "BAB").plan(Oracle(sde, GAUSSIAN), times)
    same(torch.cat([row[0] for row in plan]), mirror * phi)
    assert Q.shape == (3, 2, 2)


def test_a_process_without_a_stationary_law_is_refused():
    with pytest.raises(ValueError, match=r"SSCS cannot take the process EDM.*these can: .*Heun"):
        run(SSCS(4), EDM(), start(EDM()))
    with pytest.raises(ValueError, match="ABA, BAB, ABBA"):
        SSCS(splitting="AB")


# -------------------------------------------------------------------------------------- adaptive

ADAPTIVE = {
    "GottaGoFast": GottaGoFast(rtol=0.05, atol=0.02),
    "ProbabilityFlow": ProbabilityFlow(rtol=1e-4, atol=1e-4),
}


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("name", ["VP", "EDM", "SubVP", "CLD"])
def test_a_sound_s_steps_are_its_own(kind, name):
    sde, sampler = PROCESSES[name], ADAPTIVE[kind]

    def sounds(numbers):
        generators = [stream("adaptive", n) for n in numbers]
        u = sde.prior((len(numbers), 1, 30), generators)
        return dict(zip(numbers, sampler(Oracle(sde, MIXTURE), u, generator=generators), strict=True))

    together, alone = sounds([0, 1, 2]), sounds([2])
    same(together[2], alone[2], 1e-5)


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("name", ["VP", "EDM", "CLD"])
def test_adaptive_samplers_sample_a_mixture_in_its_proportions(kind, name):
    sde, n = PROCESSES[name], 4000
    sampler = GottaGoFast(rtol=0.02, atol=0.01) if kind == "GottaGoFast" else ADAPTIVE[kind]
    oracle = Oracle(sde, MIXTURE)
    x = sampler(oracle, start(sde, 1, n), generator=stream(1)).flatten()
    data = MIXTURE.sample((100 * n,), torch.Generator().manual_seed(3))
    assert (x.sort().values - data.sort().values[50::100]).abs().mean() < 0.03
    assert sampler.nfe == oracle.calls


def test_a_smaller_tolerance_takes_more_calls_and_errs_less():
    sde = VP()
    u = start(sde, 1, 4000)
    data = MIXTURE.sample((400_000,), torch.Generator().manual_seed(3)).sort().values[50::100]
    calls, errors = [], []
    for relative in (0.5, 0.1, 0.02):
        sampler = GottaGoFast(rtol=relative, atol=relative / 4)
        x = sampler(Oracle(sde, MIXTURE), u, generator=stream(1)).flatten()
        calls.append(sampler.nfe)
        errors.append(float((x.sort().values - data).abs().mean()))
    assert calls == sorted(calls)
    assert calls[0] < calls[2] / 2
    assert errors[2] < errors[0]


@pytest.mark.parametrize("budget", [4, 11, 60])
def test_the_budget_of_calls_is_kept(budget):
    sde = VP()
    sampler = GottaGoFast(rtol=1e-3, atol=1e-4, max_nfe=budget)
    oracle = Oracle(sde, MIXTURE)
    x = sampler(oracle, start(sde, 2, 200), generator=stream(1))
    assert x.abs().max() < 2  # brought home, not hurled
    assert sampler.nfe <= budget
    assert oracle.calls <= budget


@pytest.mark.parametrize("name", ["VP", "EDM", "SubVP", "CosineVP"])
def test_the_black_box_finds_the_sound_of_the_fixed_steps(name):
    sde = PROCESSES[name]
    u = start(sde, 1, 50)
    fine = Heun(400)(Oracle(sde, MIXTURE), u)
    torch.testing.assert_close(ProbabilityFlow()(Oracle(sde, MIXTURE), u), fine, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["VP", "EDM", "SubVP", "CLD"])
def test_what_is_encoded_is_decoded(name):
    sde, sampler = PROCESSES[name], ProbabilityFlow(rtol=1e-6, atol=1e-6)
    x = MIXTURE.sample((2, 1, 40), torch.Generator().manual_seed(0))
    oracle = Oracle(sde, MIXTURE)
    code = sampler.encode(oracle, x)
    assert sampler.nfe > 0
    back = sampler(oracle, code)
    last = tensor(sde.t_min).expand(2)
    settled = MIXTURE.denoise(sde, sde.kernel(last).M[..., None, None] * x[:, None], last)
    torch.testing.assert_close(back, settled, rtol=0, atol=1e-3)
    if sde.blocks == 1:
        torch.testing.assert_close(back, x, rtol=0, atol=1e-3 if name != "EDM" else 5e-3)


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("name", DEFAULTS)
def test_silence_is_silent_for_them_too(kind, name):
    sde = PROCESSES[name]
    data = Mixture((0.5, 0.5), (0.0, 0.8), (1e-7, 1e-7))
    x = ADAPTIVE[kind](Oracle(sde, data), start(sde, 1, 1000), generator=stream(0))
    quiet = x[x.abs() < 0.4]
    assert len(quiet) > 300
    floor = 20 * math.log10(float(expand(quiet).abs().square().mean().sqrt()) + 1e-12)
    assert floor < -90, f"{floor:.0f} dBFS"


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_adaptive_samplers_report_how_far_they_are(kind):
    reports = []
    ADAPTIVE[kind](
        Oracle(VP(), MIXTURE), start(VP(), 3, 10), generator=stream(0), progress=lambda *r: reports.append(r)
    )
    done = [a / b for a, b in reports]
    assert done == sorted(done)
    assert done[-1] == 1.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GottaGoFast(rtol=0.0), "rtol = 0"),
        (lambda: GottaGoFast(max_nfe=3), "max_nfe = 3"),
        (lambda: ProbabilityFlow(atol=-1.0), "atol = -1"),
        (lambda: EulerMaruyama(eta=-1.0), "eta = -1"),
        (lambda: DPMSolverSDE(eta=-0.5), "eta = -0.5"),
        (lambda: DPMSolverSDE(eta_low_noise=-0.5), "eta_low_noise = -0.5"),
        (lambda: DPMSolverSDE(low_noise_sigma=0.0), "low_noise_sigma = 0"),
        (lambda: DPMSolverSDE(noise=-1.0), "noise = -1"),
        (lambda: MaximumLikelihood(variance_share=2.0), "variance_share = 2"),
        (lambda: AnnealedLangevin(step=5.0), "step = 5"),
        (lambda: PredictorCorrector(snr=0.0), "snr = 0"),
    ],
)
def test_impossible_samplers_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()

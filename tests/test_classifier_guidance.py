"""Classifier guidance: with exact denoisers and classifiers the guided law is known, at scale 1 and at others."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from diffwave_sde.classifier import BaseClassifier
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.guidance import ClassifierGuidance, Guidance
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM, DPMSolver2M, LangevinCorrector, LogSNRGrid, ProbabilityFlow
from diffwave_sde.sde import CLD, EDM, VP, broadcast_like, dot

WEIGHTS, MEANS, STDS = (
    torch.tensor(a, dtype=torch.float64) for a in ((0.5, 0.3, 0.2), (-0.4, 0.3, 0.5), (0.2, 0.4, 0.1))
)
SDES = {"VP": VP(), "CLD": CLD()}
T = torch.tensor([0.03, 0.3, 0.8], dtype=torch.float64)
LABEL = Condition(label=torch.tensor([0, 1, 2]))


def statistic(sde, u, t):
    kernel = sde.kernel(t)
    return dot(kernel.matched / kernel.snr[:, None], u), broadcast_like(kernel.snr, u[:, 0])


class Sounds(BaseDenoiser):
    """The exact denoiser of sounds of three classes, each N(mean, std²) in all its samples; or of the class told."""

    def __init__(self, sde, told=False):
        super().__init__()
        self.sde, self.sigma_data, self.told, self.calls = sde, torch.tensor(0.5), told, 0

    def predict(self, u, t, condition=None):
        self.calls += 1
        y, snr = statistic(self.sde, u, t)
        each = (MEANS / STDS**2 + (snr * y)[..., None]) / (STDS**-2 + snr[..., None])
        if self.told:
            return each[torch.arange(len(u)), ..., condition.label], u[:, 0]
        share = Exact(self.sde).at(y, snr[:, 0, 0]).exp()
        return (each * share[:, None, None]).sum(-1), u[:, 0]


class Exact(BaseClassifier):
    """p(class | y) of these sounds, by Bayes."""

    classes = 3

    def __init__(self, sde):
        super().__init__()
        self.sde, self.calls = sde, 0

    def at(self, y, snr):
        self.calls += 1
        variance = STDS**2 + 1 / snr[:, None]
        square = (y.flatten(1)[..., None] - MEANS).square() / variance[:, None] + variance.log()[:, None]
        return (WEIGHTS.log() - 0.5 * square.sum(1)).log_softmax(1)


def states(sde, length=6):
    x = MEANS[:, None, None] + STDS[:, None, None] * torch.randn(3, 1, length, generator=stream(0)).double()
    return sde.kernel(T).sample(x, torch.randn(3, sde.blocks, 1, length, generator=stream(1)).double())


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_at_scale_one_it_is_the_denoiser_of_the_class(sde):
    u = states(sde)
    plain, expected = Sounds(sde)(u, T), Sounds(sde, told=True)(u, T, LABEL)
    guided = ClassifierGuidance(Sounds(sde), Exact(sde))
    torch.testing.assert_close(guided(u, T, LABEL), expected, rtol=1e-9, atol=1e-11)
    nodes = guided.nodes(T, u)
    for i in range(3):
        D, share = nodes(u[i : i + 1], i, LABEL[i : i + 1])
        torch.testing.assert_close(D, expected[i : i + 1], rtol=1e-9, atol=1e-11)
        assert torch.equal(share, u[i : i + 1, 0])
    # The test can fail: another scale, the wrong sign, a gradient without its covariance.
    for wrong in (ClassifierGuidance(Sounds(sde), Exact(sde), 1.1)(u, T, LABEL), 2 * plain - expected):
        assert float((wrong - expected).abs().max()) > 1e-3
    snr = broadcast_like(sde.kernel(T).snr, plain)
    assert float((plain + (expected - plain) * snr - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_score_grows_by_the_scale_times_the_gradient_of_any_mix_in_every_block(sde):
    denoiser, classifier, u = Sounds(sde), Exact(sde), states(sde)
    mixes = [{0: 1.0}, {1: 0.7, 2: 0.3}, {0: 2.0, 1: -1.0}]
    guided = ClassifierGuidance(denoiser, classifier, 2.5, labels=mixes)
    v = u.clone().requires_grad_()
    shares = torch.tensor([[mix.get(k, 0.0) for k in range(3)] for mix in mixes], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((shares * classifier.log_prob(v, T)).sum(), v)
    expected = denoiser.score(u, T, LABEL) + 2.5 * gradient
    torch.testing.assert_close(guided.score(u, T, LABEL), expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "sampler"), [("VP", DPMSolver2M(60)), ("CLD", DDIM(250))])
def test_at_scale_one_sounds_follow_the_law_of_their_class(name, sampler):
    sde, count, length = SDES[name], 300, 4
    u = sde.prior((count, 1, length), stream(1)).double()
    for k in (0, 2):
        guided = ClassifierGuidance(Sounds(sde), Exact(sde))
        x = sampler(guided, u, Condition(label=torch.full((count,), k)), stream(2))
        error = float(STDS[k]) / math.sqrt(count * length)
        assert abs(float(x.mean()) - float(MEANS[k])) < 3 * error + 0.01 * float(STDS[k])
        assert float(x.std()) == pytest.approx(float(STDS[k]), rel=3 / math.sqrt(2 * count * length) + 0.01)


# ------------------------------------------------------------------------------------------------- at other scales

STD, WIDTH, CENTRE = 0.5, 0.4, 0.6  # of the sounds N(0, STD²); of p(label | x) = exp(-Σ (x - CENTRE)² / (2 WIDTH²))


class Gaussian(BaseDenoiser):
    def __init__(self, sde):
        super().__init__()
        self.sde, self.sigma_data = sde, torch.tensor(STD)

    def predict(self, u, t, condition=None):
        y, snr = statistic(self.sde, u, t)
        return STD**2 * snr * y / (1 + STD**2 * snr), None


class Bell(BaseClassifier):
    """p(label | y) and p(not label | y), exactly."""

    classes = 2

    def __init__(self, sde):
        super().__init__()
        self.sde = sde

    def at(self, y, snr):
        snr = broadcast_like(snr, y)
        variance = 1 / (STD**-2 + snr)
        wide = WIDTH**2 + variance
        log_p = (0.5 * (WIDTH**2 / wide).log() - (variance * snr * y - CENTRE).square() / (2 * wide)).flatten(1).sum(1)
        return torch.stack((log_p, (-log_p.expm1()).clamp_min(1e-300).log()), 1)


def moments(sampler, wrapper, count=200, length=20):
    u = wrapper.sde.prior((count, 1, length), stream(1)).double()
    x = sampler(wrapper, u, Condition(label=torch.zeros(count, dtype=torch.long)), stream(2))
    return float(x.mean()), float(x.std())


def flow_map(sde, scale):
    """(a, B) of the guided probability flow, which is affine in u on these data: x = a + B u, from t_max to t_min."""

    def rates(t, flat):
        at = torch.tensor([t], dtype=torch.float64)
        kernel, F, g = sde.kernel(at), sde.drift(at)[0].numpy(), sde.diffusion(at)[0].numpy()
        v = 1 / (STD**-2 + float(kernel.snr))
        pull = scale * v / (WIDTH**2 + v)  # D' = (1 - pull) D + pull CENTRE
        M, precision, matched = (a[0].numpy() for a in (kernel.M, kernel.precision, kernel.matched))
        half = 0.5 * np.diag(g**2)
        A = F - half @ (np.outer(matched, (1 - pull) * v * matched) - precision)
        moved = A @ flat.reshape(len(M), -1)
        moved[:, 0] -= half @ matched * pull * CENTRE
        return moved.ravel()

    begin = np.concatenate((np.zeros((sde.blocks, 1)), np.eye(sde.blocks)), 1)
    end = solve_ivp(rates, (sde.t_max, sde.t_min), begin.ravel(), method="LSODA", rtol=1e-9, atol=1e-12).y[:, -1]
    first = end.reshape(sde.blocks, -1)[0]
    return torch.tensor(first / float(sde.kernel(torch.tensor([sde.t_min], dtype=torch.float64)).M[0, 0]))


def sampled_map(sampler, wrapper):
    """The same of a sampler without noise, from what it makes of nothing and of a unit in each block."""
    blocks = wrapper.sde.blocks
    u = torch.cat((torch.zeros(1, blocks), torch.eye(blocks)))[:, :, None, None].double()
    x = sampler(wrapper, u, Condition(label=torch.zeros(len(u), dtype=torch.long)))[:, 0, 0]
    return torch.cat((x[:1], x[1:] - x[0]))


def tilted(scale):
    """Mean and standard deviation of p(x) p(label | x)^scale."""
    precision = STD**-2 + scale * WIDTH**-2
    return scale * CENTRE * WIDTH**-2 / precision, precision**-0.5


@pytest.mark.parametrize(
    ("name", "sampler"), [("VP", DPMSolver2M(200)), ("CLD", ProbabilityFlow(rtol=1e-4, atol=1e-4))]
)
def test_at_other_scales_the_flow_is_that_of_its_own_linear_equation(name, sampler):
    sde = SDES[name]
    for scale in (0.5, 3.0):
        expected = flow_map(sde, scale)
        found = sampled_map(sampler, ClassifierGuidance(Gaussian(sde), Bell(sde), scale))
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.003)
    wrong = sampled_map(sampler, ClassifierGuidance(Gaussian(sde), Bell(sde), 2.5))
    assert float((wrong - expected).abs().max()) > 0.01


def test_the_moments_of_that_flow_are_not_those_of_the_tilted_law():
    # Of a scalar process in closed form: with q = σ² at t_max, u / m shrinks by the root of (s² / (s² + q))^(1 - w)
    # (τ² s² / (τ² s² + (τ² + s²) q))^w: to the weighted geometric mean of the standard deviations of p(x) and of
    # p(x | label).
    for sde in (VP(), EDM()):
        for scale in (0.5, 1.0, 3.0):
            kernel = sde.kernel(torch.tensor([sde.t_max], dtype=torch.float64))
            mean, slope = flow_map(sde, scale).tolist()
            # The prior is the kernel's own terminal law, less what is left of the sound.
            std = slope * float(kernel.L[0, 0, 0])
            assert std == pytest.approx(STD ** (1 - scale) * tilted(1.0)[1] ** scale, rel=1e-3)
            same = std == pytest.approx(tilted(scale)[1], rel=0.01) and mean == pytest.approx(
                tilted(scale)[0], rel=0.01
            )
            assert same == (scale == 1)
    assert std < 0.7 * tilted(3.0)[1]


def test_langevin_steps_at_each_level_bring_it_to_the_tilted_law():
    sde, scale = EDM(), 3.0
    guided = ClassifierGuidance(Gaussian(sde), Bell(sde), scale)
    mean, std = tilted(scale)
    flow = STD ** (1 - scale) * tilted(1.0)[1] ** scale
    some, many = (
        moments(LangevinCorrector(60, LogSNRGrid(), DDIM(eta=1.0), corrections), guided, 80) for corrections in (2, 12)
    )
    assert many == (pytest.approx(mean, abs=0.015), pytest.approx(std, rel=0.04))
    assert abs(many[1] - std) < abs(some[1] - std) < abs(flow - std)


# --------------------------------------------------------------------------------------------------- what it costs


def test_scale_zero_no_class_and_other_levels_are_the_plain_denoiser_bit_for_bit_and_cost_nothing():
    sde = VP()
    denoiser, classifier, u = Sounds(sde), Exact(sde), states(sde)
    plain = denoiser(u, T)
    sigma = sde.kernel(T).snr.rsqrt()
    middle = ClassifierGuidance(denoiser, classifier, 2.0, float(sigma[:2].mean()), float(sigma[1:].mean()))
    for wrapper in (ClassifierGuidance(denoiser, classifier, 0.0), middle):
        nodes, classifier.calls = wrapper.nodes(T, u), 0
        got = [nodes(u, i, LABEL)[0] for i in range(3)]
        for i in range(3):
            same = torch.equal(got[i], denoiser(u, T[i].expand(3)))
            assert same == (wrapper.weight == 0 or i != 1)
        assert classifier.calls == (wrapper.weight != 0)  # one gradient where it acts
    assert torch.equal(middle(u, T, LABEL)[::2], plain[::2])
    whole = ClassifierGuidance(denoiser, classifier, 2.0)
    for condition in (None, Condition(), Condition(label=torch.full((3,), -1))):
        assert torch.equal(whole(u, T, condition), plain)


def test_it_takes_the_gradient_through_the_classifier_alone_and_under_inference_mode():
    sde = VP()

    class Watched(Sounds):
        def predict(self, u, t, condition=None):
            assert not u.requires_grad
            return super().predict(u, t, condition)

    guided = ClassifierGuidance(Watched(sde), Exact(sde))
    with torch.inference_mode():
        u, label = states(sde), Condition(label=torch.tensor([0, 1, 2]))
        D = guided.nodes(T, u)(u, 1, label)[0]
    torch.testing.assert_close(D, Sounds(sde, told=True)(states(sde), T[1].expand(3), LABEL))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Guidance(classifier=-1.0), "classifier = -1 must be at least 0; 0 is no guidance"),
        (lambda: Guidance(classifier_sigma_min=2.0, classifier_sigma_max=1.0), "classifier_sigma_min = 2"),
        (lambda: ClassifierGuidance(Sounds(VP()), Exact(VP()), math.nan), "weight = nan"),
        (lambda: ClassifierGuidance(Sounds(VP()), Exact(VP()), labels=[{3: 1.0}]), "0 to 2"),
        (lambda: ClassifierGuidance(Sounds(VP()), Exact(VP()), labels=[{0: math.inf}]), "0 to 2"),
    ],
)
def test_impossible_guidance_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_what_is_told_of_it():
    told = str(Guidance(1.0, classifier=2.0, classifier_sigma_max=10.0))
    assert told == "classifier 2 up to σ = 10"

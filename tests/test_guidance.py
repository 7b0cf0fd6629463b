"""Wrappers: what they make of D, and that every sampler honours them."""

import itertools

import pytest
import torch
from truth import MIXTURE, SAMPLERS, Mixture, Oracle, concrete, exact

from diffwave_sde.classifier import BaseClassifier
from diffwave_sde.clipping import CLIPS, Clip, DynamicThreshold, StaticClip
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser, Wrapper
from diffwave_sde.editing.posterior import GradientPosterior, LinearGaussian, LinearPosterior
from diffwave_sde.editing.projection import KnownSamples
from diffwave_sde.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuidance,
    ClassMix,
    ContextFree,
    Guidance,
    GuidanceInput,
)
from diffwave_sde.looping import Looped
from diffwave_sde.networks import UNet
from diffwave_sde.parametrization import Karras
from diffwave_sde.random import stream
from diffwave_sde.samplers import DPMSolver2M, GottaGoFast, ProbabilityFlow
from diffwave_sde.sde import VP, apply, embed_waveform

ALL = {**{name: lambda cls=cls: cls(8) for name, cls in SAMPLERS.items()}}
ALL["GottaGoFast"] = lambda: GottaGoFast(rtol=0.5, atol=0.1)
ALL["ProbabilityFlow"] = lambda: ProbabilityFlow(rtol=1e-2, atol=1e-2)


def test_clipping_is_clipping():
    D = torch.tensor([[[-3.0, -0.5, 0.2, 1.0, 1.5]]])
    assert StaticClip(None).change(D).tolist() == [[[-1.0, -0.5, pytest.approx(0.2), 1.0, 1.0]]]
    assert StaticClip(None, 2.0).change(D).abs().max() == 2.0


def test_the_dynamic_threshold_is_that_of_imagen():
    g = torch.Generator().manual_seed(0)
    D = torch.randn(3, 1, 1000, generator=g) * torch.tensor([0.1, 1.0, 5.0])[:, None, None]
    got = DynamicThreshold(None, 0.9).change(D)
    for before, after in zip(D, got, strict=True):  # each sound by itself
        s = max(float(before.abs().flatten().kthvalue(901).values), 1.0)
        torch.testing.assert_close(after, before.clamp(-s, s) / s, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(got[0], D[0])  # a quiet one is left alone
    assert got.abs().max() <= 1


@pytest.mark.parametrize("wrapper", concrete(Clip))
@pytest.mark.parametrize("kind", ALL)
def test_every_sampler_honours_the_wrapper(wrapper, kind):
    # Data beyond full scale: without the wrapper its sounds are too.
    loud = Mixture((0.5, 0.5), (-3.0, 3.0), (0.1, 0.1))
    sde = VP()
    u = sde.prior((2, 1, 50), torch.Generator().manual_seed(0)).double()
    free, kept = (
        ALL[kind]()(denoiser, u, generator=stream(1)) for denoiser in (Oracle(sde, loud), wrapper(Wrapped(sde, loud)))
    )
    assert free.abs().max() > 1.5
    assert kept.abs().max() <= 1


class Wrapped(Oracle):
    """The exact denoiser, with nodes as a true one has them."""

    def nodes(self, times, like):
        return lambda u, i, condition=None: (self(u, times[i].expand(len(u)), condition), None)


@pytest.mark.parametrize("wrapper", concrete(Clip))
def test_a_wrapper_is_a_denoiser(wrapper):
    sde = VP()
    denoiser = exact(sde, Karras(), MIXTURE)
    wrapped, t = wrapper(denoiser), torch.tensor([0.3, 0.6], dtype=torch.float64)
    u = 4 * torch.randn(2, 1, 1, 30, generator=torch.Generator().manual_seed(0)).double()
    plain = wrapped.change(denoiser(u, t))
    assert torch.equal(wrapped(u, t), plain)
    at = wrapped.nodes(t, u)
    for i in range(2):
        D, share = at(u[i : i + 1], i)
        torch.testing.assert_close(D[0], plain[i])
        assert share is None
    assert wrapped.sde is sde
    assert wrapped.sigma_data == denoiser.sigma_data
    assert torch.equal(wrapper(wrapped)(u, t), wrapped.change(plain))  # one in another


def test_the_command_line_knows_them_all():
    assert set(CLIPS.values()) == set(concrete(Clip))


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda: StaticClip(None, 0.0), "limit = 0"), (lambda: DynamicThreshold(None, 1.5), "quantile = 1.5")],
)
def test_impossible_wrappers_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ------------------------------------------------------------------------------------------------ guidance by class


class Classes(BaseDenoiser):
    """The exact denoiser of Gaussian classes, class c of mean c; of all of them together where no class is told."""

    def __init__(self, sde):
        super().__init__()
        self.sde, self.sigma_data, self.asked = sde, torch.tensor(0.5), []

    def law(self, label: int) -> Mixture:
        return Mixture((1.0,), (float(label),), (0.3,)) if label >= 0 else Mixture((0.5, 0.5), (0.0, 1.0), (0.3, 0.3))

    def predict(self, u, t, condition=None):
        self.asked.append(len(u))
        rows = zip(u.split(1), t.split(1), condition.label.tolist(), strict=True)
        D = torch.cat([self.law(label).denoise(self.sde, one, at) for one, at, label in rows])
        if condition.guidance is not None:  # as a student answers that is told the weight
            D = condition.guidance[:, None, None].to(D) * D
        if condition.audio is not None:
            D = D + 0.25 * condition.audio
        return D, u[:, 0]  # a learned variance's place, which wrappers are to pass on


T = torch.tensor([0.05, 0.3, 0.8], dtype=torch.float64)
ASKED = Condition(label=torch.tensor([0, 1, -1]))


def states(sde) -> torch.Tensor:
    return 2 * torch.randn(3, sde.blocks, 1, 20, generator=torch.Generator().manual_seed(0)).double()


def score(sde, D, u):
    kernel = sde.kernel(T)
    return apply(-kernel.precision, u) + embed_waveform(kernel.matched, D)


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5, 4.0])
def test_guidance_weighs_the_scores_with_and_without_the_class(sde, weight):
    denoiser, u = Classes(sde), states(sde)
    without = Condition(label=torch.full((3,), -1))
    led = score(sde, ClassifierFree(denoiser, weight)(u, T, ASKED), u)
    # ∇ log of p(u | c)^w p(u)^(1 - w). Source: Ho and Salimans 2022, section 3.2
    expected = weight * score(sde, denoiser(u, T, ASKED), u) + (1 - weight) * score(sde, denoiser(u, T, without), u)
    torch.testing.assert_close(led, expected, rtol=1e-7, atol=1e-6 * float(expected.abs().max()))
    assert torch.equal(led[2], score(sde, denoiser(u, T, ASKED), u)[2])  # no class, nothing to be led to


def test_guidance_acts_between_its_noise_levels_alone_and_costs_nothing_elsewhere():
    denoiser = Classes(VP())
    sigma = denoiser.sde.kernel(T).snr.rsqrt()
    u = states(denoiser.sde)
    plain = denoiser(u, T, ASKED)
    wrapped = ClassifierFree(denoiser, 3.0, sigma_min=float(sigma[:2].mean()), sigma_max=float(sigma[1:].mean()))
    led = wrapped(u, T, ASKED)
    assert torch.equal(led[0], plain[0])
    assert not torch.equal(led[1], plain[1])
    assert torch.equal(led[2], plain[2])
    at, denoiser.asked = wrapped.nodes(T, u), []
    whole = ClassifierFree(denoiser, 3.0).nodes(T, u)
    for i, cost in enumerate((3, 6, 3)):
        D, share = at(u, i, ASKED)
        assert denoiser.asked.pop() == cost
        expected = whole(u, i, ASKED)[0] if i == 1 else denoiser(u, T[i].expand(3), ASKED)
        assert torch.equal(D, expected)
        assert torch.equal(share, u[:, 0])


def test_without_a_class_or_with_a_weight_of_one_the_network_is_asked_once():
    denoiser, u = Classes(VP()), states(VP())
    for weight, condition in ((1.0, ASKED), (2.0, None), (2.0, Condition())):
        class_free = ClassifierFree(Wrapped(VP(), MIXTURE) if condition != ASKED else denoiser, weight)
        inner = class_free.denoiser
        assert torch.equal(class_free(u, T, condition), inner(u, T, condition))
        assert torch.equal(class_free.nodes(T, u)(u, 1, condition)[0], inner.nodes(T, u)(u, 1, condition)[0])
    assert set(denoiser.asked) == {3}


def test_a_guided_flow_goes_further_from_the_other_classes():
    denoiser = Classes(VP())
    u = denoiser.sde.prior((64, 1, 20), torch.Generator().manual_seed(0)).double()
    condition = Condition(label=torch.ones(64, dtype=torch.long))
    plain, led = (DPMSolver2M(20)(d, u, condition).mean() for d in (denoiser, Guidance(3.0).by_class(denoiser)))
    assert float(plain) == pytest.approx(1.0, abs=0.05)
    assert float(led) > 1.1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Guidance(weight=-1.0), "weight = -1"),
        (lambda: Guidance(sigma_min=2.0, sigma_max=1.0), "sigma_min = 2 and sigma_max = 1"),
        (lambda: Guidance(sigma_min=-1.0), "sigma_min = -1"),
        (lambda: Guidance(auto=-1.0), "auto = -1"),
        (lambda: Guidance(auto_sigma_min=2.0, auto_sigma_max=1.0), "auto_sigma_min = 2 and auto_sigma_max = 1"),
    ],
)
def test_impossible_guidance_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ---------------------------------------------------------------------------------------------------- autoguidance


class Blurred(Classes):
    """A weaker one: it takes every class for wider than it is."""

    def law(self, label: int) -> Mixture:
        return Mixture((1.0,), (float(label),), (0.6,)) if label >= 0 else Mixture((0.5, 0.5), (0.0, 1.0), (0.6, 0.6))


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5, 3.0])
def test_autoguidance_weighs_the_scores_of_both_networks(sde, weight):
    strong, weak, u = Classes(sde), Blurred(sde), states(sde)
    led = score(sde, AutoGuidance(strong, weak, weight)(u, T, ASKED), u)
    # ∇ log of p_strong^w p_weak^(1 - w). Source: Karras et al. 2024, section 3
    expected = weight * score(sde, strong(u, T, ASKED), u) + (1 - weight) * score(sde, weak(u, T, ASKED), u)
    torch.testing.assert_close(led, expected, rtol=1e-7, atol=1e-6 * float(expected.abs().max()))


def test_the_weak_network_is_asked_where_it_counts_alone():
    strong, weak = Classes(VP()), Blurred(VP())
    sigma = strong.sde.kernel(T).snr.rsqrt()
    u = states(strong.sde)
    plain, other = strong(u, T, ASKED), weak(u, T, ASKED)
    wrapped = AutoGuidance(strong, weak, 3.0, sigma_min=float(sigma[:2].mean()), sigma_max=float(sigma[1:].mean()))
    led = wrapped(u, T, ASKED)
    assert torch.equal(led[0], plain[0])
    torch.testing.assert_close(led[1], 3 * plain[1] - 2 * other[1])
    assert torch.equal(led[2], plain[2])
    at, weak.asked = wrapped.nodes(T, u), []
    for i in range(3):
        D, share = at(u, i, ASKED)
        own, theirs = (one(u, T[i].expand(3), ASKED) for one in (strong, Blurred(VP())))
        torch.testing.assert_close(D, 3 * own - 2 * theirs if i == 1 else own)
        assert torch.equal(share, u[:, 0])
    assert weak.asked == [3]
    assert not AutoGuidance(strong, weak, 1.0).acts(T).any()


def test_a_flow_led_away_from_a_blurred_network_is_narrower_and_stays_in_place():
    # p_strong^w p_weak^(1 - w) of Gaussians has the precision w / 0.3² + (1 - w) / 0.6².
    strong, weak = Classes(VP()), Blurred(VP())
    u = strong.sde.prior((400, 1, 20), torch.Generator().manual_seed(0)).double()
    condition = Condition(label=torch.ones(400, dtype=torch.long))
    for weight in (0.5, 2.0):
        x = DPMSolver2M(40)(AutoGuidance(strong, weak, weight, sigma_max=0.5), u, condition)
        assert float(x.mean()) == pytest.approx(1.0, abs=0.02)
        assert (float(x.std()) < 0.29) == (weight > 1)
        assert (float(x.std()) > 0.31) == (weight < 1)


def network(classes: int) -> UNet:
    net = UNet(1, classes, channels=[8, 8], factors=[5], embedding=8, heads=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def test_a_model_is_led_as_far_as_it_has_the_means_for():
    asked = Guidance(2.0, auto=3.0, auto_sigma_min=0.1)
    weak = Denoiser(network(3), VP())
    with_all, without_weak = Denoiser(network(3), VP(), weak=weak), Denoiser(network(3), VP())
    nothing = Denoiser(network(1), VP())
    assert asked.supported_by(with_all) == asked
    assert asked.supported_by(without_weak) == Guidance(2.0, auto_sigma_min=0.1)
    assert asked(nothing) is nothing
    led = asked(with_all)
    assert (led.weight, led.sigma_min, led.weak) == (3.0, 0.1, weak)
    assert (led.denoiser.weight, led.denoiser.denoiser) == (2.0, with_all)
    assert isinstance(Guidance(1.0, auto=3.0)(with_all).denoiser, Denoiser)


def test_the_weak_network_has_no_part_in_d():
    strong = network(3)
    alone, beside = Denoiser(strong, VP()), Denoiser(strong, VP(), weak=Denoiser(network(3), VP()))
    u = states(VP()).float()
    assert torch.equal(alone(u, T, ASKED), beside(u, T, ASKED))
    assert torch.equal(alone.nodes(T, u)(u, 1, ASKED)[0], beside.nodes(T, u)(u, 1, ASKED)[0])


@pytest.mark.parametrize(
    ("guidance", "told"),
    [
        (Guidance(3.0, sigma_min=1.0), "3 from σ = 1"),
        (Guidance(1.0), "none"),
        (Guidance(1.0, auto=1.5, auto_sigma_min=0.1, auto_sigma_max=10.0), "auto 1.5 from σ = 0.1 up to σ = 10"),
        (Guidance(2.0, auto=1.5), "2, auto 1.5"),
    ],
)
def test_what_is_told_of_a_guidance(guidance, told):
    assert str(guidance) == told


def test_a_network_that_takes_the_weight_is_told_it_and_asked_once():
    torch.manual_seed(0)
    plain = UNet(1, 3, channels=[8, 8], factors=[5], embedding=8, heads=2)
    torch.manual_seed(0)
    taught = UNet(1, 3, channels=[8, 8], factors=[5], embedding=8, heads=2, guidance=True)
    assert set(taught.state_dict()) - set(plain.state_dict()) == {"embed.guidance.weight", "embed.guidance.bias"}
    taught.load_state_dict(plain.state_dict(), strict=False)
    for net in (plain, taught):
        torch.nn.init.normal_(net.head[-1].weight, generator=stream("head"))
    denoiser, u = Denoiser(taught, VP()), states(VP()).float()
    t = T.float()
    # At first any weight gives what there was before.
    assert torch.equal(Guidance(4.0)(denoiser)(u, t, ASKED), Denoiser(plain, VP())(u, t, ASKED))
    for parameter in taught.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=stream("taught"))
    asked = []
    taught.register_forward_hook(lambda _, given, out: asked.append((len(given[0]), given[2].guidance)))
    weights = torch.tensor([4.0, 4.0, 4.0])
    expected = denoiser(u, t, Condition(label=ASKED.label, guidance=weights))
    assert torch.equal(Guidance(4.0)(denoiser)(u, t, ASKED), expected)
    at_once = Guidance(4.0)(denoiser).nodes(T, u)(u, 1, ASKED)[0]
    torch.testing.assert_close(at_once, Guidance(4.0)(denoiser)(u, t[1:2].expand(3), ASKED))
    assert all(count == 3 and torch.equal(told, weights) for count, told in asked)
    assert not torch.equal(expected, denoiser(u, t, ASKED))
    # None is 1.
    assert torch.equal(denoiser(u, t, ASKED), denoiser(u, t, Condition(label=ASKED.label, guidance=torch.ones(3))))


class Louder(BaseClassifier):
    """It takes what is loud for class 1."""

    classes = 2

    def at(self, y, snr):
        return (y.square().mean((1, 2))[:, None] * torch.tensor([0.0, 1.0])).log_softmax(1)


LAST = LinearGaussian(lambda x: x[..., -10:], torch.full((1, 1, 10), 0.5), 0.1)
WRAPPERS = {
    "StaticClip": lambda denoiser: StaticClip(denoiser, 1.1),
    "DynamicThreshold": DynamicThreshold,
    "ClassifierFree": lambda denoiser: ClassifierFree(denoiser, 2.5, sigma_min=0.3),
    "GuidanceInput": lambda denoiser: GuidanceInput(denoiser, 1.2),
    "ClassMix": lambda denoiser: ClassMix(denoiser, 3, [{0: 0.7, 1: 0.3}], 1.5, sigma_min=0.3),
    "ContextFree": lambda denoiser: ContextFree(denoiser, 1.8, sigma_min=0.3),
    "AutoGuidance": lambda denoiser: AutoGuidance(denoiser, Oracle(denoiser.sde, MIXTURE), 1.7, sigma_max=3.0),
    "ClassifierGuidance": lambda denoiser: ClassifierGuidance(denoiser, Louder(), 20.0, labels=[{0: 1.0}, {1: 0.6}]),
    "Projected": lambda denoiser: KnownSamples(torch.full((50,), 0.25), torch.arange(50) > 20)(denoiser),
    "LinearPosterior": lambda denoiser: LinearPosterior(denoiser, LAST, iterations=2),
    "GradientPosterior": lambda denoiser: GradientPosterior(denoiser, LAST),
    "Looped": Looped,
}


def test_every_wrapper_is_in_the_test_of_their_order():
    assert set(WRAPPERS) == {cls.__name__ for cls in concrete(Wrapper)}


@pytest.mark.parametrize(("inner", "outer"), list(itertools.permutations(WRAPPERS, 2)))
def test_wrappers_wrap_one_another_in_any_order(inner, outer):
    sde, g = VP(), torch.Generator().manual_seed(0)
    u = 3 * torch.randn(3, 1, 1, 50, generator=g, dtype=torch.float64)  # loud enough for every clip
    asked = Condition(ASKED.label, torch.randn(3, 1, 50, generator=g, dtype=torch.float64))
    wrapped = WRAPPERS[outer](WRAPPERS[inner](Classes(sde)))
    nodes = wrapped.nodes(T, u)
    for i, t in enumerate(T):
        t = t.expand(3)
        D, share = wrapped.predict(u, t, asked)
        for got, expected in zip(nodes(u, i, asked), (D, share), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(wrapped(u, t, asked), D, rtol=0, atol=0)
        torch.testing.assert_close(share, u[:, 0])  # the learned variance's place is the network's own
        kernel = sde.kernel(t)
        tweedie = apply(kernel.precision, embed_waveform(kernel.M, D) - u)
        torch.testing.assert_close(wrapped.score(u, t, asked), tweedie, rtol=1e-9, atol=1e-9)
        whitened = apply(kernel.inverse, u - embed_waveform(kernel.M, D))
        torch.testing.assert_close(wrapped.eps(u, t, asked), whitened, rtol=1e-9, atol=1e-9)
    if {inner, outer} == {"StaticClip", "DynamicThreshold"}:
        return  # the second finds nothing left to clip
    if "Looped" in (inner, outer):
        return  # samples that are independent of one another can be turned at will
    # Each of the two has a part in it.
    assert not torch.equal(wrapped(u, T, asked), WRAPPERS[inner](Classes(sde))(u, T, asked))
    assert not torch.equal(wrapped(u, T, asked), WRAPPERS[outer](Classes(sde))(u, T, asked))

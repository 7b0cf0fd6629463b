"""Class mixes: the flow of mixed scores has a known law, and the product of experts is another one."""

import math

import pytest
import torch

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.guidance import ClassMix, Guidance
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM, DPMSolver2M, LangevinCorrector, LogSNRGrid
from diffwave_sde.sde import EDM, VP, broadcast_like

STDS = (0.15, 0.6, 0.3)  # of the classes 0 and 1, and of a sound without a class
MIX = {0: 0.7, 1: 0.3}


class Gaussians(BaseDenoiser):
    """The exact denoiser of sounds N(0, s²), s by class."""

    def __init__(self, sde):
        super().__init__()
        self.sde, self.sigma_data, self.asked = sde, torch.tensor(0.4), []

    def predict(self, u, t, condition=None):
        self.asked.append(len(u))
        kernel = self.sde.kernel(t)
        y = (broadcast_like(kernel.matched, u) * u).sum(1) / broadcast_like(kernel.snr, u[:, 0])
        s2 = torch.tensor(STDS, dtype=torch.float64)[condition.label].square()
        return broadcast_like(s2 / (s2 + 1 / kernel.snr), y) * y, None


def std_of(sampler, wrapper, label=2, count=300, length=40) -> float:
    u = wrapper.sde.prior((count, 1, length), stream(1)).double()
    condition = Condition(label=torch.full((count,), label))
    return float(sampler(wrapper, u, condition, stream(2)).std())


@pytest.mark.parametrize("weight", [1.0, 2.0])
@pytest.mark.parametrize("sde", [EDM(), VP()], ids=lambda sde: type(sde).__name__)
def test_the_flow_of_mixed_scores_ends_in_the_geometric_mean_of_the_standard_deviations(sde, weight):
    # d log u / dσ = σ Σ w_k / (s_k² + σ²) in u / m and σ / m: u shrinks by Π (s_k / σ_max)^w_k, and σ_max is its start.
    wrapper = ClassMix(Gaussians(sde), 2, [MIX], weight)
    shares = {0: weight * 0.7, 1: weight * 0.3, 2: 1 - weight}
    expected = math.prod(STDS[k] ** share for k, share in shares.items())
    got = std_of(DPMSolver2M(80), wrapper)
    assert got == pytest.approx(expected, rel=0.02)
    product = sum(share / STDS[k] ** 2 for k, share in shares.items()) ** -0.5
    assert abs(product / expected - 1) > 0.1  # the product of experts is another law
    wrong = ClassMix(Gaussians(sde), 2, [{0: 0.3, 1: 0.7}], weight)
    assert std_of(DPMSolver2M(80), wrong) != pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("sde", [EDM(), VP()], ids=lambda sde: type(sde).__name__)
def test_langevin_steps_at_each_level_bring_it_to_the_product_of_experts(sde):
    wrapper = ClassMix(Gaussians(sde), 2, [MIX])
    product = sum(share / STDS[k] ** 2 for k, share in MIX.items()) ** -0.5
    flow = math.prod(STDS[k] ** share for k, share in MIX.items())
    some, many = (
        std_of(LangevinCorrector(60, LogSNRGrid(), DDIM(eta=1.0), corrections), wrapper, count=100)
        for corrections in (2, 12)
    )
    assert many == pytest.approx(product, rel=0.04)
    assert abs(many - product) < abs(some - product) < abs(flow - product)


def test_a_mix_is_a_pass_for_each_class_in_one_call_and_one_more_where_it_is_guided():
    sde = VP()
    inner = Gaussians(sde)
    u = torch.randn(3, 1, 1, 5, dtype=torch.float64)
    t = torch.full((3,), 0.4, dtype=torch.float64)
    condition = Condition(label=torch.tensor([0, 1, 2]))
    for weight, passes in ((1.0, 2), (1.5, 3)):
        wrapper, inner.asked = ClassMix(inner, 2, [MIX], weight), []
        wrapper(u, t, condition)
        wrapper.nodes(t[:1], u)(u, 0, condition)
        assert inner.asked == [3 * passes] * 2
    plain = inner(u, t, Condition(label=torch.tensor([0, 1, 1])))
    assert torch.equal(ClassMix(inner, 2, [MIX])(u, t, condition)[:2], plain[:2])  # single classes as without it


@pytest.mark.parametrize("shares", [{0: 0.5}, {0: 1.0, 1: 1.0}, {0: 2.0, 1: -0.5}])
def test_what_is_missing_to_one_is_the_share_of_no_class(shares):
    sde, inner = EDM(), Gaussians(EDM())
    u = torch.randn(2, 1, 1, 5, dtype=torch.float64)
    t = torch.full((2,), 0.3, dtype=torch.float64)
    each = [inner(u, t, Condition(label=torch.full((2,), k))) for k in (0, 1, -1)]
    expected = sum(share * each[k] for k, share in shares.items()) + (1 - sum(shares.values())) * each[2]
    got = ClassMix(inner, 2, [shares])(u, t, Condition(label=torch.tensor([2, 2])))
    torch.testing.assert_close(got, expected)
    del sde


@pytest.mark.parametrize("mix", [{}, {2: 1.0}, {-1: 1.0}, {0: math.nan}])
def test_a_mix_of_what_is_no_class_is_refused(mix):
    with pytest.raises(ValueError, match="a mix is shares by class, 0 to 1"):
        ClassMix(Gaussians(EDM()), 2, [mix])


def test_a_model_without_mixes_is_wrapped_as_ever():
    from diffwave_sde.denoiser import Denoiser
    from diffwave_sde.guidance import ClassifierFree
    from diffwave_sde.networks import UNet

    denoiser = Denoiser(UNet(1, 2, channels=[8, 8], factors=[5], embedding=8, heads=2), VP())
    assert Guidance(1.0)(denoiser) is denoiser
    assert type(Guidance(2.0)(denoiser)) is ClassifierFree
    mixed = Guidance(2.0, sigma_min=0.5)(denoiser, [MIX])
    assert (type(mixed), mixed.weight, mixed.sigma_min) == (ClassMix, 2.0, 0.5)

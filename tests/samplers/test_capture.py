"""Captured samplings, by tapes in place of CUDA graphs."""

import pytest
import torch
from tape import Tapes
from torch import nn
from truth import SAMPLERS

from diffwave_sde.clipping import StaticClip
from diffwave_sde.denoiser import Condition, Denoiser
from diffwave_sde.guidance import Guidance
from diffwave_sde.model import Model
from diffwave_sde.networks import UNet
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM, CapturedSampler, DefaultSampler, DPMSolverSDE, GottaGoFast
from diffwave_sde.sde import CLD, VP


def parts(sde, count=2):
    """A small denoiser that is far from its start at zero, and what `count` sounds begin with."""
    torch.manual_seed(0)
    net = UNet(sde.blocks, 2, channels=(8, 8), factors=(5,), blocks=1, embedding=16, heads=2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return Denoiser(net, sde).eval(), lambda key: [stream(key, i) for i in range(count)]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_captured_sampling_makes_the_sounds_of_its_sampler(kind):
    sde = VP() if SAMPLERS[kind]().supports(VP()) else CLD()
    denoiser, generators = parts(sde)
    captured = CapturedSampler(denoiser, SAMPLERS[kind](4), Tapes())
    for key, label in (("first", [0, 1]), ("second", [1, -1])):
        condition = Condition(label=torch.tensor(label))
        expected = SAMPLERS[kind](4)(denoiser, sde.prior((2, 1, 50), (g := generators(key))), condition, g)
        made = captured(sde.prior((2, 1, 50), (g := generators(key))), condition, g)
        torch.testing.assert_close(made, expected, rtol=0, atol=0)
    assert captured.sampler.nfe > 0


def test_a_model_captures_its_own_sampler_guidance_and_wrapping():
    denoiser, generators = parts(VP())
    model = Model(denoiser.net, VP(), sampler=DefaultSampler(4), guidance=Guidance(3.0), seed=1).eval()
    sample = model.capture(wrap=StaticClip, graphs=Tapes())
    reports = []
    for key in ("first", "second"):
        label = torch.tensor([1, 0])
        made = sample(50, label, generators(key), lambda *done: reports.append(done))
        expected = model.sample(50, label, generators(key), wrap=StaticClip)
        torch.testing.assert_close(made, expected, rtol=0, atol=0)
    assert reports == [(i, 4) for i in (1, 2, 3, 4)] * 2


def test_what_is_captured_in_inference_mode_serves_outside_of_it():
    denoiser, generators = parts(VP())
    sample = Model(denoiser.net, VP(), sampler=DPMSolverSDE(4)).capture(graphs=Tapes())
    with torch.inference_mode():
        first = sample(50, None, generators("a"))
    assert torch.equal(sample(50, None, generators("a")), first)


def test_another_number_of_sounds_and_a_device_without_graphs_are_refused():
    denoiser, generators = parts(VP())
    captured = CapturedSampler(denoiser, DDIM(4), Tapes())
    captured(torch.randn(2, 1, 1, 50), None, generators("a"))
    with pytest.raises(ValueError, match=r"captured for .*\(2, 1, 1, 50\)"):
        captured(torch.randn(3, 1, 1, 50), None, None)
    with pytest.raises(ValueError, match="captured on a CUDA GPU, and this is the cpu"):
        CapturedSampler(denoiser, DDIM(4))
    with pytest.raises(ValueError, match="GottaGoFast chooses its steps by what it meets"):
        CapturedSampler(denoiser, GottaGoFast(), Tapes())

"""Bits per sample are honest: of companded, of 16-bit and of silent sound."""

import math

import pytest
import torch
from truth import GAUSSIAN, Mixture, Oracle

from diffwave_sde import audio
from diffwave_sde.likelihood import Bound, Flow, Levels
from diffwave_sde.likelihood.levels import log_mass
from diffwave_sde.random import stream
from diffwave_sde.sde import EDM

X = Levels().round(GAUSSIAN.sample((64, 1, 32), stream("x")).clamp(-0.9, 0.9))


def test_the_jacobian_is_the_derivative_of_the_companding():
    levels = Levels(mu=255.0)
    x = torch.tensor([[[-0.7, -1e-3, 0.0, 2e-4, 0.5]]], dtype=torch.float64)
    d = 1e-7
    slope = (levels.compress(x + d) - levels.compress(x - d)) / (2 * d)
    assert float(levels.log_slope(x)) == pytest.approx(float(slope.log().sum()), rel=1e-4)
    torch.testing.assert_close(levels.compress(x), audio.compress(x, 255.0))


def test_the_cells_of_all_levels_hold_all_the_probability():
    levels = Levels(mu=255.0, bits=8)
    x = (torch.arange(256, dtype=torch.float64) / 128 - 1)[None, None]
    low, high = levels.edges(x)
    mass = log_mass((low - 0.3) / 0.2, (high - 0.3) / 0.2).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert (log_mass(torch.tensor([38.0, -40.0]).double(), torch.tensor([39.0, -39.0]).double()) < -700).all()


def test_dequantised_sounds_lie_in_their_cells_evenly():
    levels = Levels()
    moved = (levels.dequantise(X, stream("u")) - X) / levels.width
    assert float(moved.abs().max()) <= 0.5
    assert float(moved.var()) == pytest.approx(1 / 12, rel=0.1)


@pytest.mark.parametrize("mu", [0.0, 255.0])
def test_bits_are_those_of_the_law_of_the_sound_however_it_is_companded(mu):
    # The model's law is normal in what it sees: known in x by the change of variables, and as cells by Φ.
    # Cells of silence are 1.4e-3 wide, companded: a chain that ends far below them pays for what is rounded away.
    levels, sde = Levels(mu), EDM(sigma_min=1e-3 if mu else 1e-5)
    law = Mixture(stds=(0.5,))
    y = law.sample((64, 1, 32), stream("y")).clamp(-0.95, 0.95)
    x = levels.round(audio.expand(y, mu))
    low, high = levels.edges(x)
    truth = -log_mass(low / 0.5, high / 0.5).flatten(1).sum(1) / (32 * math.log(2))
    moved = levels.dequantise(x, stream("u"))
    seen = levels.compress(moved)
    nats = Flow(1, steps=200)(Oracle(sde, law), seen, generator=stream("flow")).nats + levels.log_slope(moved)
    assert float((levels.bits_of(nats, 32, False) - truth).mean()) == pytest.approx(0, abs=0.02)
    found = Bound(1, 64)(Oracle(sde, law), levels.compress(x), None, stream("bound"), levels.edges(x))
    above = levels.bits_of(found.nats, 32, True) - truth
    error = float(above.std()) / 8
    assert -3 * error < float(above.mean()) < 0.05 + 3 * error


def test_silence_costs_no_less_than_nothing_however_sure_the_model_is():
    # A law that is all but sure of zero: its density there has no bound, the bits of 16-bit zeros have.
    zeros, levels = torch.zeros(4, 1, 32, dtype=torch.float64), Levels()
    for std in (1e-3, 1e-5, 1e-6):
        law, sde = Mixture(stds=(std,)), EDM(sigma_min=std / 10, sigma_max=10)
        oracle = Oracle(sde, law)
        raw = Flow(1, steps=200)(oracle, zeros, generator=stream("raw")).nats
        moved = levels.dequantise(zeros, stream("u"))
        flow = levels.bits_of(Flow(1, steps=200)(oracle, moved, generator=stream("f")).nats, 32, False)
        bound = levels.bits_of(Bound(2, 64)(oracle, zeros, None, stream("b"), levels.edges(zeros)).nats, 32, True)
        assert float(raw.mean()) / 32 == pytest.approx(-math.log(std * math.sqrt(math.tau)), abs=0.05)
        assert float(flow.min()) > -0.02
        assert float(bound.mean()) > -0.05
    assert float(levels.bits_of(raw, 32, False).mean()) < -3  # what would be reported without the dequantisation

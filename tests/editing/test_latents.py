"""Latents of the probability flow: there and back, and the way between two."""

import math

import pytest
import torch
from truth import MIXTURE, Oracle

from diffwave_sde.editing.latents import encode, slerp
from diffwave_sde.random import stream
from diffwave_sde.samplers import DDIM
from diffwave_sde.sde import CLD, EDM, VP


@pytest.mark.parametrize("sde", [EDM(), VP(), CLD()], ids=lambda sde: type(sde).__name__)
def test_what_was_encoded_decodes_to_the_sound(sde):
    x = MIXTURE.sample((2, 1, 200), stream(1))
    denoiser, sampler = Oracle(sde, MIXTURE), DDIM(60)
    u = encode(denoiser, x, sampler, iterations=100, tolerance=1e-7)
    error = (sampler(denoiser, u) - x).square().mean().sqrt() / x.square().mean().sqrt()
    assert float(error) < 1e-3


def test_a_sampler_that_draws_noise_has_no_latents():
    with pytest.raises(ValueError, match="eta = 1: a sound has latents of the flow alone"):
        encode(Oracle(VP(), MIXTURE), torch.zeros(1, 1, 4), DDIM(4, eta=1.0))


def test_the_way_between_two_latents_is_a_great_circle():
    a, b = (torch.randn(2, 1, 1, 500, generator=stream(i), dtype=torch.float64) for i in (1, 2))
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    middle = slerp(a, b, 0.5)
    length = 0.5 * (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1))
    torch.testing.assert_close(middle.flatten(1).norm(dim=1), length, rtol=1e-9, atol=0)  # the straight line is shorter

    def angle(p, q):
        p, q = p.flatten(1), q.flatten(1)
        return torch.acos((p * q).sum(1) / p.norm(dim=1) / q.norm(dim=1))

    torch.testing.assert_close(angle(a, middle), angle(middle, b), rtol=1e-9, atol=0)


@pytest.mark.parametrize("factor", [1.0, -1.0], ids=["parallel", "antiparallel"])
def test_parallel_latents_fall_back_on_the_straight_line(factor):
    a = torch.randn(1, 1, 1, 50, generator=stream(1), dtype=torch.float64)
    found = slerp(a, factor * a, 0.25)
    assert found.isfinite().all()
    torch.testing.assert_close(found, (0.75 + 0.25 * factor) * a, rtol=1e-9, atol=1e-9)
    assert math.isfinite(float(found.sum()))

"""Wrappers: what they make of D, and that every sampler honours them."""

import pytest
import torch
from truth import MIXTURE, SAMPLERS, Mixture, Oracle, concrete, exact

from diffwave_sde.denoiser import Karras
from diffwave_sde.guidance import CLIPS, DynamicThreshold, StaticClip, Wrapper
from diffwave_sde.random import stream
from diffwave_sde.samplers import GottaGoFast, ProbabilityFlow
from diffwave_sde.sde import VP

ALL = {**{name: lambda cls=cls: cls(8) for name, cls in SAMPLERS.items()}}
ALL["GottaGoFast"] = lambda: GottaGoFast(relative=0.5, absolute=0.1)
ALL["ProbabilityFlow"] = lambda: ProbabilityFlow(relative=1e-2, absolute=1e-2)


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


@pytest.mark.parametrize("wrapper", concrete(Wrapper))
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


@pytest.mark.parametrize("wrapper", concrete(Wrapper))
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
    assert set(CLIPS.values()) == set(concrete(Wrapper))


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda: StaticClip(None, 0.0), "limit = 0"), (lambda: DynamicThreshold(None, 1.5), "quantile = 1.5")],
)
def test_impossible_wrappers_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()

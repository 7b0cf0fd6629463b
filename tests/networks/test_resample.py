import math

import pytest
import torch
from layouts import randn, shifted, small
from torch import nn

from diffwave_sde.networks.resample import Decimate, Downsample, Interpolate, Repeat, Upsample, lowpass

FACTORS = [2, 3, 4, 5, 7]


def decibels(x):
    return 20 * math.log10(float(x) + 1e-12)


def response(factor, frequency):
    """The largest amplitude that is left of a sinusoid, cycles per frame of the faster rate, in the middle."""
    n = torch.arange(200 * factor)
    wave = torch.polar(torch.ones(len(n)).double(), 2 * math.pi * frequency * n.double())
    out = Decimate(factor).double()(torch.stack((wave.real, wave.imag))[None])[0, :, 10:-10]
    return out.norm(dim=0).max()


@pytest.mark.parametrize("factor", FACTORS)
def test_the_filter_is_symmetric_and_every_phase_of_it_weighs_the_same(factor):
    h = lowpass(factor)
    assert h.shape == (7 * factor,)
    assert float(h.sum()) == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(h, h.flip(0), rtol=0, atol=1e-15)
    torch.testing.assert_close(h.view(7, factor).sum(0), torch.ones(factor).double() / factor, rtol=0, atol=1e-14)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_constant_stays_constant(factor):
    inner = slice(3 * factor, -3 * factor)
    for layer, length in ((Decimate(factor), 20 * factor), (Interpolate(factor), 20)):
        y = layer(torch.full((2, 3, length), 0.7))[..., inner if isinstance(layer, Interpolate) else slice(3, -3)]
        torch.testing.assert_close(y, torch.full_like(y, 0.7), rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", FACTORS)
def test_what_would_alias_is_attenuated(factor):
    nyquist = 0.5 / factor
    for frequency in torch.linspace(nyquist, 0.5, 40).tolist():
        assert decibels(response(factor, frequency)) < -31.5
        if frequency >= 1.1 * nyquist:
            assert decibels(response(factor, frequency)) < -41
    assert decibels(response(factor, 0.25 * nyquist)) == pytest.approx(0, abs=0.15)
    assert decibels(response(factor, 0.55 * nyquist)) == pytest.approx(-3, abs=0.2)


@pytest.mark.parametrize("factor", FACTORS)
def test_upsampling_leaves_no_image(factor):
    # A slow tone among zeros has images about every multiple of the slower rate: they are gone.
    frames, slow = 400, 0.2
    x = (2 * math.pi * slow * torch.arange(frames).double()).sin()[None, None]
    y = Interpolate(factor).double()(x)[0, 0] * torch.hann_window(frames * factor, dtype=torch.float64)
    spectrum = torch.fft.rfft(y).abs()
    expected = round(slow / factor * len(y))
    assert abs(int(spectrum.argmax()) - expected) <= 1
    spectrum[expected - 5 : expected + 6] = 0
    assert decibels(spectrum.max() / torch.fft.rfft(y).abs().max()) < -40


@pytest.mark.parametrize("factor", FACTORS)
def test_down_is_the_adjoint_of_up_over_the_factor(factor):
    x, y = randn(2, 3, 11 * factor).double(), randn(2, 3, 11, seed=1).double()
    up, down = Interpolate(factor).double()(y), Decimate(factor).double()(x)
    torch.testing.assert_close((down * y).sum(), (x * up).sum() / factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", FACTORS)
def test_frames_stay_in_place(factor):
    # The centre of one frame's response is that of the frames which the nearest neighbour makes of it.
    x = torch.zeros(1, 1, 21)
    x[..., 10] = 1
    where = torch.arange(21.0 * factor)
    for layer in (Interpolate(factor), Repeat(factor)):
        assert float((layer(x)[0, 0] * where).sum() / factor) == pytest.approx(10 * factor + (factor - 1) / 2, rel=1e-5)


def moved(down, up, factor):
    """How much a shift by one frame changes what comes down and up again, relative to it."""
    x = torch.zeros(1, 1, 480 * factor)
    x[..., 200 * factor : 208 * factor] = randn(8 * factor)
    y, z = (up(down(torch.roll(x, s, -1))) for s in (0, 1))
    return float((torch.roll(y, 1, -1) - z).norm() / y.norm())


@pytest.mark.parametrize("factor", FACTORS)
def test_the_filters_let_a_shift_through_and_a_plain_change_of_rate_does_not(factor):
    assert moved(Decimate(factor), Interpolate(factor), factor) < 0.01
    assert moved(nn.AvgPool1d(factor), Repeat(factor), factor) > 0.3


@pytest.mark.parametrize(("transition", "share"), [("convolution", 0.25), ("biggan", 0.5)])
def test_a_network_with_filters_is_nearer_to_a_shifted_output_for_a_shifted_input(transition, share):
    # What is left is the activations' own: they make frequencies that their rate has no room for.
    options = {"position": 0, "bottleneck": "none", "gate": False, "transition": transition}
    plain, filtered = (
        sum(shifted(small(resample=kind, seed=seed, **options), 1) for seed in range(4)) / 4
        for kind in ("strided", "fir")
    )
    assert plain > 0.5
    assert filtered < share * plain
    assert shifted(small(resample="fir", **options), 10) < 1e-6


@pytest.mark.parametrize("resample", ["strided", "fir"])
@pytest.mark.parametrize("factor", [1, *FACTORS])
def test_any_multiple_of_the_factor_is_taken(factor, resample):
    for frames in (1, 2, 9):
        y = Downsample(3, 4, 3, factor, resample)(randn(2, 3, frames * factor), None)
        assert y.shape == (2, 4, frames)
        assert Upsample(4, 3, 3, factor, resample)(y, None).shape == (2, 3, frames * factor)


def test_a_factor_of_one_changes_nothing():
    x = randn(1, 2, 9)
    assert torch.equal(Decimate(1)(x), x)
    assert torch.equal(Interpolate(1)(x), x)


def test_a_filtered_layer_is_its_filter_and_its_convolution():
    x = randn(2, 3, 20)
    down, up = Downsample(3, 4, 3, 2, "fir"), Upsample(4, 3, 3, 2, "fir")
    y = nn.functional.conv1d(Decimate(2)(x), down.weight, down.bias, padding=1)
    torch.testing.assert_close(down(x, None), y)
    torch.testing.assert_close(up(y, None), Interpolate(2)(nn.functional.conv1d(y, up.weight, up.bias, padding=1)))


@pytest.mark.parametrize("layer", [Decimate(5), Interpolate(5)], ids=["down", "up"])
def test_the_filters_have_no_weights_and_keep_the_precision_they_are_given(layer):
    assert not layer.state_dict()
    assert not list(layer.parameters())
    x = randn(2, 3, 100)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x))
        exact, half = layer(x), layer(x.bfloat16())
    torch.testing.assert_close(exact, layer(x), rtol=0, atol=0)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() < 0.01 * exact.norm()

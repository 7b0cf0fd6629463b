"""What each option of the papers' networks claims."""

import math
import re

import jsonargparse
import numpy as np
import pytest
import torch
from layouts import SMALL, noise_of, randn, small
from torch import nn
from torch.nn import functional

from diffwave_sde.networks import MDCT, Network, UNet
from diffwave_sde.networks.blocks import Attention, Fourier, FrameNorm, ResBlock, compressed, harmonic_features
from diffwave_sde.networks.resample import DOWN, UP, Downsample, Upsample, lowpass


class Noise(nn.Module):
    """In place of a residual branch: unit variance, independent of everything, in the shape of its argument."""

    def forward(self, x):
        return torch.randn_like(x)


def seen_by(module, net, *args):
    """The first argument that the module gets in a pass of the network."""
    seen = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(*args)
    handle.remove()
    return seen[0]


def test_the_names_of_the_default_layout_are_those_of_checkpoints():
    block = ["before.0", "before.2", "norm", "film", "after.2"]
    names = [
        "stem",
        *(f"{s}.N.N.{b}" for s in ("down", "up") for b in block),
        "downsample.N",
        "upsample.N",
        "up.N.N.skip",
    ]
    names += [f"{s}.N.{b}" for s in ("mid_in", "mid_out") for b in block]
    names += ["mix.N.norm", "mix.N.qkv", "mix.N.out", "head.0", "head.2", "embed.mlp.0", "embed.mlp.2"]
    expected = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")} | {"embed.frequencies"}
    lists = r"\b(down|up)\.\d+\.\d+|\b(downsample|upsample|mid_in|mid_out|mix)\.\d+"
    found = {re.sub(lists, lambda m: re.sub(r"\d+", "N", m[0]), name) for name in UNet(**SMALL).state_dict()}
    assert found == expected
    assert UNet(**SMALL).downsample[1].weight.shape == (16, 12, 11)


# -------------------------------------------------------------------------------------- transition


@pytest.mark.parametrize("resample", ["strided", "fir"])
@pytest.mark.parametrize("table", [DOWN, UP], ids=["down", "up"])
def test_a_biggan_block_changes_the_rate_of_both_branches(table, resample):
    rate = table[resample](5)
    torch.manual_seed(0)
    block = ResBlock(4, 6, 8, 3, (1, 1), 0.0, resample=rate)
    x, embedding = randn(2, 4, 30), randn(2, 8)
    skip = functional.conv1d(rate(x), block.skip[-1].weight, block.skip[-1].bias)
    assert skip.shape == (2, 6, 6 if table is DOWN else 150)
    torch.testing.assert_close(block(x, embedding), skip)  # the last convolution starts at zero
    # Brock et al. 2019: normalise, activate, resample, convolve; normalise with FiLM, activate, convolve.
    for layer in (block.film, block.after[-1]):
        nn.init.normal_(layer.weight)
    first, last = block.before[-1], block.after[-1]
    h = functional.conv1d(rate(functional.silu(block.before[0](x))), first.weight, first.bias, padding=1)
    scale, shift = block.film(embedding)[:, :, None].chunk(2, 1)
    h = functional.silu(block.norm(h) * (1 + scale) + shift)
    expected = skip + functional.conv1d(h, last.weight, last.bias, padding=1)
    torch.testing.assert_close(block(x, embedding), expected)


@pytest.mark.parametrize("resample", ["strided", "fir"])
def test_the_transitions_are_what_was_asked_for(resample):
    plain, gan = (small(resample=resample, transition=t) for t in ("convolution", "biggan"))
    assert [type(m) for m in (*plain.downsample, *plain.upsample)] == [Downsample] * 2 + [Upsample] * 2
    assert all(type(m) is ResBlock for m in (*gan.downsample, *gan.upsample))
    for net, kind in ((plain, Downsample), (gan, ResBlock)):
        filters = [type(m) for m in net.modules()].count(DOWN["fir"])
        assert filters == (2 if resample == "fir" else 0), kind
    assert [m.before[2].kernel_size if resample == "strided" else m.before[2].factor for m in gan.downsample] == (
        [(2,), (5,)] if resample == "strided" else [2, 5]
    )


# -------------------------------------------------------------------------------------- rescale


@pytest.mark.parametrize(("rescale", "expected"), [(True, 1), (False, 9)])
def test_rescaled_sums_keep_the_variance(rescale, expected):
    torch.manual_seed(0)
    blocks = [ResBlock(8, 8, 8, 3, (1, 1), 0.0, rescale) for _ in range(4)]
    mixers = [Attention(8, 1, rescale) for _ in range(4)]
    for block in blocks:
        block.after = Noise()
    for mixer in mixers:
        mixer.out = Noise()
    y, embedding = torch.randn(16, 8, 500), torch.randn(16, 8)
    with torch.no_grad():
        for block in blocks:
            y = block(y, embedding)
        for mixer in mixers:
            y = mixer(y)
    assert float(y.var()) == pytest.approx(expected, rel=0.03)


def test_a_rescaled_biggan_block_divides_its_sum():
    torch.manual_seed(0)
    plain = ResBlock(4, 4, 8, 3, (1, 1), 0.0, resample=nn.AvgPool1d(2))
    scaled = ResBlock(4, 4, 8, 3, (1, 1), 0.0, rescale=True, resample=nn.AvgPool1d(2))
    scaled.load_state_dict(plain.state_dict())
    x, embedding = randn(1, 4, 10), randn(1, 8)
    torch.testing.assert_close(scaled(x, embedding), plain(x, embedding) / math.sqrt(2))


def test_a_rescaled_fnet_divides_both_of_its_sums():
    torch.manual_seed(0)
    layer, x = Fourier(8, 1, rescale=True), randn(2, 8, 12)
    mixed = torch.fft.fft2(layer.norm(x), norm="ortho").real
    torch.testing.assert_close(layer(x), (x + mixed) / 2)  # the feed-forward layer starts at zero


@pytest.mark.parametrize("rescale", [True, False])
def test_every_sum_of_a_network_is_rescaled_or_none_is(rescale):
    net = small(rescale=rescale, transition="biggan", bottleneck="both")
    sums = [m for m in net.modules() if isinstance(m, ResBlock | Attention | Fourier)]
    assert len(sums) == 2 * 2 * 2 + 4 + 4 + 2
    assert all(m.rescale == rescale for m in sums)


# -------------------------------------------------------------------------------------- progressive


@pytest.mark.parametrize("transition", ["convolution", "biggan"])
def test_the_input_reaches_every_level_by_a_way_of_its_own(transition):
    def innermost(progressive):
        net = small(progressive=progressive, transition=transition, compress=False)
        for parameter in net.stem.parameters():  # the main way is cut
            nn.init.zeros_(parameter)
        u = randn(1, 1, 200).requires_grad_()
        x = seen_by(net.mid_in[0], net, u, torch.zeros(1))
        return torch.autograd.grad((x * randn(*x.shape, seed=1)).sum(), u)[0]

    assert not innermost(False).any()
    assert (innermost(True) != 0).float().mean() > 0.95


def test_the_pyramid_is_the_low_passed_input():
    net, u = small(progressive=True, position=0, inputs=2), randn(1, 2, 300)
    views = seen_by(net.stem, net, u, torch.zeros(1))
    assert torch.equal(views[:, :2], u)
    for pyramid_in, factor in zip(net.pyramid_in, (2, 5), strict=True):
        got = seen_by(pyramid_in, net, u, torch.zeros(1))
        # Σ_k h_k x_{n f + k - 3 f}, by numpy.
        padded = np.pad(views.numpy().astype(float), ((0, 0), (0, 0), (3 * factor, 3 * factor)))
        rows = [np.convolve(row, lowpass(factor).numpy(), "valid")[::factor] for row in padded[0]]
        views = torch.tensor(np.stack(rows)[None], dtype=torch.float32)
        torch.testing.assert_close(got, views, rtol=0, atol=1e-5)
        assert pyramid_in.kernel_size == (1,)


# -------------------------------------------------------------------------------------- blocks


def test_every_level_has_its_own_number_of_blocks():
    net = small(blocks=[1, 2, 3])
    assert [len(s) for s in net.down] == [len(s) for s in net.up] == [1, 2]
    assert len(net.mid_in) == len(net.mid_out) == 3
    one, listed = small(blocks=2), small(blocks=(2, 2, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), listed.state_dict().values(), strict=True))


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("[1, 2, 3]", [1, 2, 3])])
def test_the_command_line_takes_a_number_of_blocks_or_a_list(given, expected):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(UNet, "net")
    options = parser.parse_args(["--net.blocks", given, "--net.harmonics", "[7, 8]", "--net.resample", "fir"])
    assert options.net.blocks == expected
    assert options.net.harmonics == [7, 8]
    with pytest.raises(jsonargparse.ArgumentError):
        parser.parse_args(["--net.transition", "strided"])


# -------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16-autocast"])
def test_what_is_computed_again_gives_the_same_gradient_in_less_memory(half):
    gradients, kept = [], []
    for recompute in (False, True):
        net = small(recompute=recompute, blocks=2, dropout=0.3, front=MDCT(6), multiresolution=True).train()
        sizes = {}

        def note(x, sizes=sizes):
            sizes[x.data_ptr()] = x.numel()
            return x

        torch.manual_seed(1)
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = net(randn(2, 1, 600), noise_of(2))
        y.float().square().sum().backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
        kept.append(sum(sizes.values()))
    assert len(gradients[0]) == len(gradients[1]) > 20
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
    assert kept[1] < 0.7 * kept[0]


# -------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e12])
def test_the_compressed_view_is_asinh(scale):
    x = (scale * randn(1_000)).requires_grad_()
    y = compressed(x)
    assert torch.allclose(y.double(), x.double().asinh(), rtol=3e-7, atol=3e-7)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(slope.double(), (x.double().square() + 1).rsqrt(), rtol=1e-5)
    assert compressed(torch.tensor([0.0, -0.0])).tolist() == [0.0, 0.0]


# -------------------------------------------------------------------------------------- harmonics


@pytest.mark.parametrize("front", [None, MDCT(6)], ids=["waveform", "mdct"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16-autocast"])
def test_harmonics_are_the_formula_in_full_precision(front, half):
    net, u = small(harmonics=(7, 8), position=0, compress=False, inputs=2, front=front), randn(1, 2, 300)
    with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.no_grad():
        views = seen_by(net.stem, net, u, torch.zeros(1))
    z = u.double()
    waves = [f(2**n * math.pi * z) for f in (torch.sin, torch.cos) for n in (7, 8)]
    expected = net.front.analyse(torch.cat((z, *waves), 1)).float()
    assert views.shape[1] == 2 * (1 + 4) * net.front.bands
    torch.testing.assert_close(views[..., : expected.shape[-1]], expected, rtol=0, atol=2e-3)


def test_harmonics_of_a_coarse_input_are_still_those_of_the_formula():
    z = randn(1, 1, 300).bfloat16()
    got = harmonic_features(z, (7, 8))
    expected = torch.cat([f(2**n * math.pi * z.double()) for f in (torch.sin, torch.cos) for n in (7, 8)], 1)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=5e-3)


def test_a_detail_that_hardly_shows_is_plain_in_the_harmonics():
    # Kingma et al. 2021, section 5.5: -60 dBFS moves the phase of 2⁸ π z by 0.8.
    z = randn(1, 1, 1000)
    change = harmonic_features(z + 1e-3, (7, 8)) - harmonic_features(z, (7, 8))
    for row, n in zip(change[0], (7, 8, 7, 8), strict=True):
        # (sin(a + δ) - sin a)² = 4 sin²(δ / 2) cos²: half of it in the mean, whatever the sign.
        assert float(row.square().mean().sqrt()) == pytest.approx(
            math.sqrt(2) * math.sin(2**n * math.pi * 5e-4), rel=0.1
        )
    assert float(change.square().mean().sqrt()) > 300 * 1e-3


# -------------------------------------------------------------------------------------- skips


@pytest.mark.parametrize("rescale", [False, True])
def test_added_skips_are_added(rescale):
    net, args = small(skips="add", rescale=rescale), (randn(1, 1, 100), torch.zeros(1))
    for level in (0, 1):
        outs = {}
        for name, module in (("skip", net.down[level][-1]), ("below", net.upsample[level])):
            module.register_forward_hook(lambda module, args, out, name=name, outs=outs: outs.update({name: out}))
        got = seen_by(net.up[level][0], net, *args)
        expected = (outs["below"] + outs["skip"]) / (math.sqrt(2) if rescale else 1)
        torch.testing.assert_close(got, expected)


def test_added_skips_need_half_the_width():
    concat, add = small(), small(skips="add")
    for level, width in enumerate((8, 12)):
        assert concat.up[level][0].before[-1].in_channels == 2 * width
        assert add.up[level][0].before[-1].in_channels == width
        assert isinstance(add.up[level][0].skip, nn.Identity)


# -------------------------------------------------------------------------------------- variance


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("front", [None, MDCT(6)], ids=["waveform", "mdct"])
def test_the_second_output_leaves_the_first_as_it_was(front, gate):
    options = {"front": front, "gate": gate, "inputs": 2}
    one, two = small(**options), small(variance=True, **options)
    bands = one.front.bands
    state = one.state_dict()
    for name, rows in two.state_dict().items():
        if name in ("head.2.weight", "head.2.bias"):
            state[name] = torch.cat((state[name], rows[-bands:]))
    two.load_state_dict(state)
    args = randn(2, 2, 100), noise_of(0.1, 2)
    with torch.no_grad():
        y = two(*args)
        assert y.shape == (2, 2, 100)
        torch.testing.assert_close(y[:, :1], one(*args))
        assert (y[:, 1] - y[:, 0]).abs().max() > 0.01
        # It is the synthesis of the last rows of the head, and no gate reaches it.
        nn.init.zeros_(two.head[-1].weight[-bands:])
        two.head[-1].bias[-bands:] = torch.arange(1.0, bands + 1)
        frames = -(-100 // two.front.hop) + (two.front.hop > 1)
        rows = torch.arange(1.0, bands + 1)[None, :, None].expand(2, -1, frames)
        torch.testing.assert_close(two(*args)[:, 1:], two.front.synthesise(rows)[..., :100])


def test_networks_say_how_many_outputs_they_have():
    assert Network.outputs == UNet(**SMALL).outputs == 1
    assert UNet(**SMALL, variance=True).outputs == 2


# -------------------------------------------------------------------------------------- resolutions and normalisation


@pytest.mark.parametrize("level", [0, 1, 2])
def test_at_every_resolution_the_gate_passes_on_the_noise(level):
    # A level whose gate is 1 everywhere, all else 0: the output is u / σ, whatever the length of its frames.
    net = UNet(**(SMALL | {"multiresolution": True, "factors": (3, 2), "front": MDCT(4)}), compress=False)
    last = (net.head, *net.level_head)[level][-1]
    with torch.no_grad():
        last.bias.view(2, -1)[1] = 1.0
    sigma = 0.3
    x = 0.05 * randn(2, 1, 157)
    expected = x * math.sqrt(1 + 0.5**2 / sigma**2)
    torch.testing.assert_close(net(x, noise_of(sigma, 2)), expected, rtol=1e-5, atol=1e-5)


def test_a_deeper_level_speaks_in_its_lowest_bands_alone():
    net = UNet(**(SMALL | {"multiresolution": True, "lowest": 4, "factors": (3, 2), "front": MDCT(4)}), compress=False)
    assert [front.bands for front in net.fronts] == [4, 4]
    assert [front.hop for front in net.fronts] == [12, 24]
    with torch.no_grad():
        net.level_head[1][-1].bias.fill_(1.0)
    power = torch.fft.rfft(net(randn(2, 1, 2400), noise_of(0.1, 2))).abs().square().mean((0, 1))
    assert power[600:].sum() < 1e-2 * power.sum()  # of 1200 bins to Nyquist the lowest sixth is its own


def test_every_resolution_is_seen_and_heard():
    net = small(multiresolution=True, front=MDCT(4), factors=(3, 2))
    out = net(randn(2, 1, 240), noise_of(0.1, 2)).square().mean()
    out.backward()
    for part in (*net.level_in, *net.level_head):
        for parameter in part.parameters():
            assert parameter.grad.abs().sum() > 0


def test_frames_are_normalised_one_by_one():
    x = randn(2, 8, 5)
    norm = FrameNorm(8)
    with torch.no_grad():
        norm.weight.copy_(randn(8, 1)), norm.bias.copy_(randn(8, 1, seed=1))
    expected = functional.layer_norm(x.mT, (8,), norm.weight[:, 0], norm.bias[:, 0]).mT
    torch.testing.assert_close(norm(x), expected)
    louder = x.clone()
    louder[..., 0] *= 1000
    torch.testing.assert_close(norm(louder)[..., 1:], norm(x)[..., 1:])


def test_another_normalisation_is_refused():
    with pytest.raises(ValueError, match="norm = 'batch': choose group or frame"):
        UNet(norm="batch")

import math

import pytest
import torch
from layouts import LAYOUTS, SMALL, Asked, noise_of, randn, shifted, small
from torch import nn
from truth import concrete

from diffwave_sde.machine import bfloat16_is_fast
from diffwave_sde.networks import MDCT, BFloat16Network, Network, UNet
from diffwave_sde.networks.blocks import (
    Attention,
    Conv,
    Fourier,
    NoiseEmbedding,
    ResBlock,
    normalise,
    position_features,
)

# -------------------------------------------------------------------------------------- shapes


def test_a_network_that_multiplies_in_bfloat16_says_nearly_the_same():
    net, twin = (small(front=MDCT(20), classes=3, multiresolution=True).eval() for _ in range(2))
    half = BFloat16Network(twin)
    assert (half.inputs, half.classes, half.outputs) == (net.inputs, net.classes, net.outputs)
    u, noise, asked = randn(4, 1, 1000), noise_of(4), Asked(torch.tensor([0, 1, 2, -1]))
    with torch.no_grad():
        exact, near = net(u, noise, asked), half(u, noise, asked)
    assert near.dtype == torch.float32
    error = (near - exact).norm() / exact.norm()
    assert 1e-4 < error < 3e-2  # 8 bits, through a dozen layers
    kinds = {type(m).__name__: m.weight.dtype for m in half.modules() if getattr(m, "weight", None) is not None}
    assert kinds["Conv"] == kinds["Linear"] == torch.bfloat16
    assert kinds["GroupNorm"] == kinds["Embedding"] == torch.float32
    assert twin.front.cosines.dtype == torch.float32


@pytest.mark.skipif(
    not bfloat16_is_fast("cpu"), reason="weights are kept in oneDNN's order on CPUs with AMX or AVX512_BF16 alone"
)
def test_prepacked_weights_say_the_same_at_any_length_in_any_batch():
    packed, plain = (BFloat16Network(small(front=MDCT(20), classes=3, multiresolution=True).eval()) for _ in range(2))
    for layer in plain.modules():
        if isinstance(layer, Conv):
            assert layer.prepacked
            layer.prepacked = False
    with torch.no_grad():
        for batch, length in ((2, 1000), (1, 1000), (3, 2400), (3, 1000)):
            u, noise = randn(batch, 1, length), noise_of(batch)
            a, b = packed(u, noise), plain(u, noise)
            assert (a - b).norm() < 1e-2 * b.norm()  # the same products, summed in another order


@pytest.mark.parametrize("cls", concrete(Network))
@pytest.mark.parametrize("inputs", [1, 2])
def test_every_network_keeps_its_word(cls, inputs):
    net = cls(inputs=inputs, classes=3)
    assert (net.inputs, net.classes) == (inputs, 3)
    with torch.no_grad():
        y = net(randn(2, inputs, 1234), torch.zeros(2), Asked(torch.tensor([0, 2])))
    assert y.shape == (2, net.outputs, 1234)
    assert y.isfinite().all()


@pytest.mark.parametrize("front", [None, MDCT(60)], ids=["waveform", "mdct"])
@pytest.mark.parametrize("length", [1, 2, 59, 60, 61, 1000, 20_999, 21_000, 44_100])
def test_any_length_is_taken(front, length):
    with torch.no_grad():
        y = small(front=front, bottleneck="none" if length > 2000 and front is None else "attention")(
            randn(1, 1, length), torch.zeros(1)
        )
    assert y.shape == (1, 1, length)
    assert y.isfinite().all()


@pytest.mark.parametrize("front", [None, MDCT(6)], ids=["waveform", "mdct"])
@pytest.mark.parametrize("length", [1, 2, 61, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_length_is_taken_by_any_layout(layout, front, length):
    net = small(front=front, inputs=2, **LAYOUTS[layout])
    with torch.no_grad():
        y = net(randn(1, 2, length), torch.zeros(1))
    assert y.shape == (1, net.outputs, length)
    assert y.isfinite().all()


def test_the_bottleneck_of_the_defaults_is_about_two_thousand_long():
    with torch.device("meta"):
        net = UNet()
    seen = []
    net.mix[0].register_forward_hook(lambda module, args, out: seen.append(out.shape[-1]))
    net(torch.empty(1, 1, 21_000, device="meta"), torch.empty(1, device="meta"))
    assert seen == [2100]


def test_the_layout_of_rouard_and_hadjeres_is_built():
    with torch.device("meta"):
        net = UNet(channels=(128, 128, 128, 256, 256, 512), factors=(2, 2, 3, 5, 5), dilations=(1, 2, 4, 8))
    y = net(torch.empty(1, 1, 21_000, device="meta"), torch.empty(1, device="meta"))
    assert y.shape == (1, 1, 21_000)
    convolutions = [m for m in net.down[0].modules() if isinstance(m, nn.Conv1d)]
    assert [c.dilation for c in convolutions] == [(1,), (2,), (4,), (8,)]
    assert net.stride == 300


@pytest.mark.parametrize("layout", ["default", "fir", "biggan", "ncsnpp"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 7])
def test_every_factor_divides_the_frames(factor, layout):
    net = small(**LAYOUTS[layout] | {"channels": (8, 8), "factors": (factor,), "bottleneck": "none"})
    seen = []
    net.downsample[0].register_forward_hook(lambda module, args, out: seen.append(out.shape[-1]))
    net(randn(1, 1, 6 * factor), torch.zeros(1))
    assert seen == [6]


# -------------------------------------------------------------------------------------- padding, place, shift


@pytest.mark.parametrize("front", [None, MDCT(6)], ids=["waveform", "mdct"])
@pytest.mark.parametrize("layout", [k for k in LAYOUTS if k != "harmonics"])  # cos 0 = 1
def test_padding_is_silence_and_nothing_else(front, layout):
    net = small(front=front, position=0, **LAYOUTS[layout])
    x = randn(2, 1, 303)
    behind = torch.cat((x, torch.zeros(2, 1, 3)), -1) if front else torch.cat((x, torch.zeros(2, 1, 7)), -1)
    y, longer = net(x, torch.zeros(2)), net(behind, torch.zeros(2))
    torch.testing.assert_close(y, longer[..., :303], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_example_does_not_depend_on_its_batch_mates(layout):
    net, x, noise = small(classes=2, **LAYOUTS[layout]), randn(3, 1, 100), torch.tensor([-0.5, 0.0, 0.5])
    label = torch.tensor([0, 1, -1])
    whole = net(x, noise, Asked(label))
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], noise[i : i + 1], Asked(label[i : i + 1]))[0], whole[i])


@pytest.mark.parametrize("bottleneck", ["attention", "none"])
def test_without_position_a_shifted_input_gives_a_shifted_output(bottleneck):
    assert shifted(small(position=0, bottleneck=bottleneck), 30) < 1e-6
    assert shifted(small(position=0, bottleneck=bottleneck), 3) > 1e-4  # not a multiple of the stride


def test_with_position_it_does_not():
    assert shifted(small(bottleneck="none"), 30) > 1e-3


def test_position_is_the_time_since_the_onset_whatever_the_length():
    short, long = (position_features(n, 60, 5, torch.zeros(())) for n in (10, 400))
    assert torch.equal(long[:, :10], short)
    time = 30.0 + 60 * torch.arange(400)
    slow = 2 * (-time / 2**16).exp() - 1
    torch.testing.assert_close(long[-1], slow)
    torch.testing.assert_close(long[0], 2 * (-time / 32).exp() - 1)
    assert (long.diff() <= 0).all()
    # In samples, so that two fronts agree on where in the sound they are.
    torch.testing.assert_close(position_features(600, 1, 5, torch.zeros(()))[:, 30], long[:, 0], rtol=0, atol=0.02)


# -------------------------------------------------------------------------------------- what the options claim


def views_of(net, u, noise):
    seen = []
    net.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(u, noise)
    return seen[0]


def test_compress_shows_the_input_in_units_of_the_noise():
    sigma, y = 0.01, randn(1, 1, 200) * 0.02
    u = y / math.hypot(sigma, 0.5)
    views = views_of(small(position=0), u, noise_of(sigma))
    torch.testing.assert_close(views[:, :1], u)
    torch.testing.assert_close(views[:, 1:2], (y / sigma).asinh(), rtol=1e-4, atol=1e-5)
    assert views_of(small(position=0, compress=False), u, noise_of(sigma)).shape[1] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_output_starts_at_zero(layout):
    torch.manual_seed(0)
    assert not UNet(**SMALL | LAYOUTS[layout])(randn(2, 1, 50), torch.zeros(2)).any()


@pytest.mark.parametrize("front", [None, MDCT(10)], ids=["waveform", "mdct"])
def test_a_gate_of_one_passes_the_noise_on(front):
    # Where there is but noise of level σ, the output of EDM's network is -y/σ nearly: the gate alone can say it.
    sigma = 0.01
    net = small(front=front)
    bands = net.front.bands
    nn.init.zeros_(net.head[-1].weight)
    with torch.no_grad():
        net.head[-1].bias[:bands] = 0.0
        net.head[-1].bias[bands:] = -1.0
    y = sigma * randn(1, 1, 400).clamp(-3, 3)
    y[..., 7] = 5 * sigma  # as one number in a million is: it must not stay behind as a blip
    out = net(y / math.hypot(sigma, 0.5), noise_of(sigma))
    torch.testing.assert_close(out, -y / sigma, rtol=1e-3, atol=1e-3)
    # Far above the noise it is bounded, whatever the input.
    assert net(torch.full((1, 1, 400), 1.0), noise_of(1e-4)).abs().max() <= 6 * math.sqrt(bands) * 1.5


@pytest.mark.parametrize("front", [None, MDCT(10)], ids=["waveform", "mdct"])
def test_a_gate_of_a_stage_passes_on_what_it_is_given_over_its_noise(front):
    net = small(front=front, inputs=2, told=True)
    bands = net.front.bands
    nn.init.zeros_(net.head[-1].weight)
    with torch.no_grad():
        net.head[-1].bias[:] = torch.tensor([0.0, -1.0, 2.0]).repeat_interleave(bands)
    u, over_noise = randn(1, 2, 400), randn(1, 2, 400, seed=1).clamp(-1.5, 1.5)
    asked = Asked()
    asked.level = torch.zeros(1)
    out = net(torch.cat((u, over_noise), 1), noise_of(0.1), asked)
    torch.testing.assert_close(out, 2 * over_noise[:, 1:] - over_noise[:, :1], rtol=1e-3, atol=1e-3)


def test_without_a_gate_there_is_none():
    assert small(gate=False).head[-1].out_channels == 1
    assert small(inputs=2).head[-1].out_channels == 3


def test_the_noise_level_is_heard_through_film():
    net = small(compress=False, gate=False)
    x = randn(1, 1, 100).expand(2, -1, -1)
    y = net(x, torch.tensor([-1.0, 1.0]))
    assert (y[0] - y[1]).abs().max() > 1e-3
    for block in net.modules():
        if isinstance(block, ResBlock):
            nn.init.zeros_(block.film.weight)
    y = net(x, torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(y[0], y[1])


@pytest.mark.parametrize("features", ["fourier", "sinusoidal"])
def test_neighbouring_noise_levels_are_told_apart(features):
    embed = NoiseEmbedding(32, features, 0)
    out = embed(torch.linspace(-1.5, 1.5, 31), None)
    assert torch.cdist(out, out).fill_diagonal_(1).min() > 1e-3
    assert torch.equal(NoiseEmbedding(32, "fourier", 0).frequencies, NoiseEmbedding(32, "fourier", 0).frequencies)


def test_no_class_is_a_class_of_its_own():
    net, x, noise = small(classes=3), randn(1, 1, 80), torch.zeros(1)
    none = net(x, noise, None)
    for condition in (Asked(), Asked(torch.tensor([-1])), Asked(torch.tensor([-7]))):
        assert torch.equal(net(x, noise, condition), none)
    answers = [none, *(net(x, noise, Asked(torch.tensor([k]))) for k in range(3))]
    for i, a in enumerate(answers):
        assert all((a - b).abs().max() > 1e-4 for b in answers[:i])


def test_a_network_without_classes_ignores_labels():
    net, x = small(), randn(1, 1, 80)
    assert torch.equal(net(x, torch.zeros(1), Asked(torch.tensor([2]))), net(x, torch.zeros(1)))


def test_fnet_is_the_real_part_of_the_two_dimensional_dft():
    torch.manual_seed(0)
    layer, x = Fourier(8, 1), randn(2, 8, 12)
    mixed = layer(x) - x  # the feed-forward layer starts at zero
    h = layer.norm(x).double()

    def dft(n):
        k = torch.arange(n, dtype=torch.float64)
        return torch.polar(torch.ones(n, n).double(), -2 * math.pi * k[:, None] * k / n) / math.sqrt(n)

    expected = (dft(8) @ h.to(torch.complex128) @ dft(12)).real
    torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=1e-5)


def test_fnet_takes_any_length_in_half_precision():
    with torch.autocast("cpu", torch.bfloat16):
        assert Fourier(8, 1)(randn(1, 8, 35)).isfinite().all()


def test_attention_is_that_of_vaswani():
    torch.manual_seed(0)
    layer, x = Attention(8, 2), randn(1, 8, 5)
    nn.init.eye_(layer.out.weight[..., 0])
    q, k, v = layer.qkv(layer.norm(x))[0].view(3, 2, 4, 5)
    heads = [v[h] @ (q[h].T @ k[h] / math.sqrt(4)).softmax(-1).T for h in range(2)]
    torch.testing.assert_close(layer(x)[0], x[0] + torch.cat(heads), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("bottleneck", "expected"),
    [
        ("attention", ["Attention"] * 2),
        ("fnet", ["Fourier"] * 2),
        ("both", ["Fourier", "Attention"] * 2),
        ("none", []),
    ],
)
def test_every_bottleneck_is_built_as_asked(bottleneck, expected):
    assert [type(m).__name__ for m in small(bottleneck=bottleneck, mixers=2).mix] == expected


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 24, 60, 128, 250, 512])
def test_normalisation_has_groups_that_divide(channels):
    norm = normalise(channels)
    assert channels % norm.num_groups == 0
    assert channels // norm.num_groups >= min(4, channels)


# -------------------------------------------------------------------------------------- training


BOTTLENECKS = {name: {"bottleneck": name} for name in ("fnet", "none")}


@pytest.mark.parametrize("options", (LAYOUTS | BOTTLENECKS).values(), ids=LAYOUTS | BOTTLENECKS)
@pytest.mark.parametrize("front", [None, MDCT(6)], ids=["waveform", "mdct"])
def test_the_gradient_reaches_every_parameter(options, front):
    net = small(front=front, classes=2, inputs=2, dilations=(1, 2), **options).train()
    out = net(randn(4, 2, 360), torch.tensor([-0.5, 0.0, 0.3, 0.6]), Asked(torch.tensor([0, 1, -1, 0])))
    (out * randn(4, net.outputs, 360, seed=1)).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("options", (LAYOUTS | BOTTLENECKS).values(), ids=LAYOUTS | BOTTLENECKS)
def test_bf16_autocast_is_finite_and_close(options):
    net = small(front=MDCT(6), inputs=2, **options)
    x, noise = randn(2, 2, 300), torch.tensor([-1.4, 1.2])
    full = net(x, noise)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, noise)
    half.sum().backward()
    assert half.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert (half - full).norm() < 0.05 * full.norm()


def test_extreme_noise_levels_are_finite():
    net = small(front=MDCT(6))
    for sigma in (1e-30, 1e-6, 1e6, 1e30):
        assert net(randn(1, 1, 100), noise_of(sigma)).isfinite().all()


EVERYTHING = LAYOUTS["ncsnpp"] | {"blocks": [1, 1, 2], "harmonics": (7, 8), "variance": True, "front": MDCT(6)}


@pytest.mark.parametrize(
    "options",
    [{}, {"resample": "fir", "bottleneck": "none"}, EVERYTHING],
    ids=["default", "fir", "everything"],
)
def test_a_compiled_network_is_the_same(options):
    # Traced but not generated: code generation takes a minute and is not the claim.
    net, x, noise = small(classes=2, **options), randn(2, 1, 60), torch.tensor([-0.5, 0.5])
    expected = net(x, noise, Asked(torch.tensor([0, -1])))
    net.compile(backend="aot_eager", fullgraph=True)
    got = net(x, noise, Asked(torch.tensor([0, -1])))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not any("_orig_mod" in name for name in net.state_dict())


def test_weights_go_round():
    a, b = small(seed=0, classes=2), small(seed=1, classes=2)
    x, noise = randn(1, 1, 70), torch.zeros(1)
    assert not torch.equal(a(x, noise), b(x, noise))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x, noise), b(x, noise))


def test_dropout_acts_in_training_alone():
    net, x, noise = small(dropout=0.5), randn(1, 1, 70), torch.zeros(1)
    assert torch.equal(net(x, noise), net(x, noise))
    net.train()
    assert not torch.equal(net(x, noise), net(x, noise))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": (8, 8)}, "one more width"),
        ({"kernel": 4}, "must be odd"),
        ({"heads": 5}, "does not divide"),
        ({"features": "wavelet"}, "choose fourier or sinusoidal"),
        ({"blocks": [1, 2]}, r"blocks = \[1, 2\]: give one number, or a list of 3, one per level"),
        ({"blocks": [1, 0, 2]}, "each at least 1"),
        ({"blocks": 0}, "each at least 1"),
        ({"resample": "FIR"}, "choose strided or fir"),
        ({"transition": "gan"}, "choose convolution or biggan"),
        ({"skips": "none"}, "choose concat or add"),
        ({"bottleneck": "lstm"}, "choose attention or fnet or both or none"),
    ],
)
def test_impossible_layouts_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        UNet(**(SMALL | options))

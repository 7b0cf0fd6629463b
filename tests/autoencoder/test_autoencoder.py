"""The network of an autoencoder, its loss, and latents as sequences."""

import pytest
import torch

from diffwave_sde.autoencoder import FSQ, KL, ConvAutoencoder, Identity, Latents, Reconstruction, ResidualVQ, Snake
from diffwave_sde.networks import Fold, Waveform


def small(bottleneck=None, **options) -> ConvAutoencoder:
    return ConvAutoencoder(bottleneck or KL(4), **{"widths": [8, 6], "strides": [5, 4], **options})


@pytest.mark.parametrize(
    "bottleneck", [KL(3), Identity(3), ResidualVQ(3, 2, 8), FSQ(3, [4, 3])], ids=lambda b: type(b).__name__
)
def test_sounds_of_any_length_come_back_as_long_as_they_were(bottleneck):
    autoencoder = small(bottleneck)
    for length in (1, 19, 20, 21, 403):
        x = torch.randn(2, 1, length)
        z = autoencoder.encode(x)
        assert z.shape == (2, 3, autoencoder.frames(length))
        assert autoencoder.decode(z, length).shape == x.shape
        y, bottled = autoencoder(x)
        assert y.shape == x.shape
        assert bottled.z.shape == z.shape
        assert bottled.loss.shape == (2,)


@pytest.mark.parametrize("strides", [[2], [2, 3], [5, 3, 4], [7]])
def test_what_is_there_at_a_time_stays_at_that_time(strides):
    autoencoder = small(Identity(4), widths=[8] * len(strides), strides=strides).double()
    x = torch.zeros(1, 1, 40 * autoencoder.ratio, dtype=torch.double)
    moved = x.clone()
    middle = 20 * autoencoder.ratio
    moved[..., middle] = 1
    change = (autoencoder(moved)[0] - autoencoder(x)[0]).detach().abs()[0, 0]
    place = (change * torch.arange(len(change))).sum() / change.sum()
    assert abs(float(place) - middle) < 2.5 * autoencoder.ratio
    assert not change[: middle // 2].any()


def test_snake_is_what_its_formula_says_and_so_is_its_gradient():
    snake = Snake(3).double()
    snake.alpha.data.copy_(torch.tensor([[0.3], [-2.0], [1.0]]))
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(snake(x), x + (snake.alpha * x).sin().square() / snake.alpha)

    def at(x, alpha):
        return torch.func.functional_call(snake, {"alpha": alpha}, x)

    assert torch.autograd.gradcheck(at, (x, snake.alpha))
    snake.alpha.data.zero_()
    assert torch.isfinite(snake(x)).all()


def test_the_distance_is_none_to_itself_rises_with_the_error_and_takes_short_and_silent_sounds():
    loss = Reconstruction()
    x = 0.1 * torch.randn(2, 1, 1500, generator=torch.Generator().manual_seed(0))
    found = [float(loss.total(loss(x + level * x.flip(-1), x)).mean()) for level in (0.0, 0.03, 0.3)]
    assert found[0] == 0
    assert 0 < found[1] < found[2]
    y = torch.zeros(2, 1, 30, requires_grad=True)
    total = loss.total(loss(y, torch.full((2, 1, 30), 0.01)))
    total.mean().backward()
    assert total.shape == (2,)
    assert torch.isfinite(y.grad).all()


def test_latents_are_laid_out_frame_after_frame_with_no_mean_and_of_unit_deviation_and_come_back():
    latents = Latents(small(Identity(4)))
    clips = torch.randn(30, 200, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    latents.measure([clips[:20], clips[20:]])
    x = clips[:, None].float()
    y = latents.encode(x)
    assert y.shape == (30, 1, latents.length(200)) == (30, 1, 40)
    frames = Fold(4).analyse(y)
    torch.testing.assert_close(frames.mean((0, 2)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.std((0, 2), correction=0), torch.ones(4), atol=1e-5, rtol=0)
    back = latents.autoencoder.decode(latents.autoencoder.encode(x), 199)
    torch.testing.assert_close(latents.decode(y, 199), back, atol=1e-5, rtol=1e-4)


def test_a_fold_is_an_isometry_there_and_back_and_one_of_a_single_band_is_the_waveform():
    x = torch.randn(2, 3, 24)
    fold = Fold(4, 60)
    y = fold.analyse(x)
    assert y.shape == (2, 12, 6)
    assert torch.equal(y[:, 4:8, 2], x[:, 1, 8:12])
    assert torch.equal(fold.synthesise(fold.analyse(x[:, :1])), x[:, :1])
    assert torch.equal(Fold(1).analyse(x), Waveform().analyse(x))
    assert fold.coarser(2).hop, fold.coarser(2).period == (8, 120)


def test_what_has_learned_learns_nothing_more():
    autoencoder, x = small(ResidualVQ(3, 2, 8)), torch.randn(4, 1, 200)
    autoencoder(x)  # the codes start

    def state():
        return {k: v.clone() for k, v in autoencoder.state_dict().items()}

    before = state()
    autoencoder(2 * x)
    assert any(not torch.equal(v, before[k]) for k, v in state().items())
    before, latents = state(), Latents(autoencoder)
    latents.train()
    latents.decode(latents.encode(x), 200)
    assert not any(p.requires_grad for p in latents.parameters())
    assert all(torch.equal(v, before[k]) for k, v in state().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": [8]}, "need one width a stride"),
        ({"strides": [5, 0]}, "must be at least 2"),
        ({"kernel": 4}, "must be odd"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)

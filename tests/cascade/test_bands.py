"""The split into bands is orthonormal, at odd lengths too, and keeps white noise white."""

import pytest
import scipy.fft
import torch

from diffwave_sde.cascade import dct, idct, join, resize, split


@pytest.mark.parametrize("length", [1, 2, 7, 40, 1050])
def test_the_transform_is_the_one_of_scipy_and_comes_back(length):
    x = torch.randn(3, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))
    torch.testing.assert_close(dct(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(idct(dct(x)), x, rtol=0, atol=1e-12)


def test_the_split_at_1_5_20_is_orthonormal_to_1e_6_in_float32():
    lengths = (1050, 5250, 21000)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 4, 1, 21000, generator=g)
    parts, others = split(x, lengths), split(y, lengths)
    assert [p.shape[-1] for p in parts] == list(lengths)
    torch.testing.assert_close(join(parts), x, rtol=0, atol=1e-5)  # of numbers up to 4
    energy = sum(p.double().square().sum(-1) for p in parts)
    torch.testing.assert_close(energy, x.double().square().sum(-1), rtol=1e-6, atol=0)
    inner = sum((p.double() * q.double()).sum(-1) for p, q in zip(parts, others, strict=True))
    scale = x.double().norm(dim=-1) * y.double().norm(dim=-1)
    assert ((inner - (x.double() * y.double()).sum(-1)).abs() / scale).max() < 1e-6
    for k in (1, 2):  # a stage adds nothing to the band of the one before
        assert resize(parts[k], lengths[k - 1]).abs().max() < 1e-6 * parts[k].norm()


def test_down_after_up_is_the_identity_and_white_noise_stays_white():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2000, 8, generator=g, dtype=torch.float64)
    torch.testing.assert_close(resize(resize(x, 40), 8), x)
    low = resize(torch.randn(20000, 40, generator=g, dtype=torch.float64), 8)
    covariance = low.T @ low / len(low)
    assert (covariance - torch.eye(8)).abs().max() < 5 / len(low) ** 0.5


def test_lengths_that_do_not_rise_to_the_whole_are_refused():
    with pytest.raises(ValueError, match="must rise to 40"):
        split(torch.zeros(1, 40), (8, 20))

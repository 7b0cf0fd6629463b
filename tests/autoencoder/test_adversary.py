"""The adversary: who learns what from it, and that it can tell."""

import pytest
import torch

from diffwave_sde.autoencoder import Adversary, ConvAutoencoder
from diffwave_sde.autoencoder_module import AutoencoderModule


def sounds(count: int, seed: int = 0) -> torch.Tensor:
    """Noise, (count, 1, 1000)."""
    return 0.1 * torch.randn(count, 1, 1000, generator=torch.Generator().manual_seed(seed))


def smoothed(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool1d(x, 9, 1, 4)


def test_each_side_learns_from_its_own_part_alone():
    torch.manual_seed(0)
    adversary, x = Adversary(windows=[64, 256]), sounds(2)
    y = smoothed(x).requires_grad_()
    adversarial, matching, discrimination = adversary(y, x)
    (adversarial + matching).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    y.grad = None
    discrimination.backward()
    assert y.grad is None
    assert all(p.grad.abs().sum() > 0 for p in adversary.parameters())


def test_it_learns_to_tell_noise_from_smoothed_noise_and_a_step_down_its_gradient_is_taken_for_more_of_a_sound():
    torch.manual_seed(0)
    adversary = Adversary(windows=[64])
    optimizer = torch.optim.Adam(adversary.parameters(), 2e-3)
    first = adversary(smoothed(sounds(8)), sounds(8))
    for step in range(60):
        x = sounds(8, 1 + step)
        optimizer.zero_grad()
        adversary(smoothed(x), x).discrimination.backward()
        optimizer.step()
    x = sounds(8, 1000)
    y = smoothed(x).requires_grad_()
    found = adversary(y, x)
    assert found.discrimination < 0.05 < 0.4 < first.discrimination
    found.adversarial.backward()
    moved = (y - 0.02 * y.grad / y.grad.square().mean().sqrt()).detach()
    assert adversary(moved, x).adversarial < 0.9 * found.adversarial
    assert adversary(x, x).matching == 0


def test_before_its_start_and_with_no_weight_the_autoencoder_learns_as_without_it():
    def weights(**options) -> torch.Tensor:
        torch.manual_seed(0)
        module = AutoencoderModule(ConvAutoencoder(widths=[4, 4], strides=[5, 4]))
        torch.manual_seed(0)
        module.adversary = Adversary(windows=[64], width=4, **options) if options else None
        optimizer = torch.optim.SGD(module.optimized(), 1e-2)
        for _ in range(3):
            y, bottled = module.autoencoder(sounds(2), torch.Generator().manual_seed(1))
            loss = (module.loss.total(module.loss(y, sounds(2))) + bottled.loss).mean()
            if module.adversary is not None:
                loss = loss + module.adversary.total(module.adversary(y, sounds(2)), step=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in module.autoencoder.parameters()])

    plain = weights()
    assert torch.equal(weights(weight=1.0, start=1), plain)
    torch.testing.assert_close(weights(weight=0.0, matching=0.0, start=0), plain, rtol=0, atol=1e-7)
    assert not torch.allclose(weights(weight=1.0, start=0), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"weight": -1}, "weight = -1"), ({"windows": []}, r"windows = \[\]"), ({"width": 0}, "width = 0")],
)
def test_numbers_out_of_their_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Adversary(**options)

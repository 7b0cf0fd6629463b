"""Parts of several windows, held to a Gaussian law: that of each window given what is there of it is known."""

import math
from pathlib import Path

import pytest
import torch
from test_contexts import ConditionalGaussian, net
from truth import SMOOTH

from diffwave_sde import parts
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.model import Model
from diffwave_sde.samplers import DPMSolverSDE, GottaGoFast
from diffwave_sde.sde import EDM
from diffwave_sde.track import Track

LENGTH = len(SMOOTH)
TRACK = torch.randn(14, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def model() -> LoadedModel:
    """Windows of 8 samples, N(A c, SMOOTH) where the track there is c."""
    module = Model(net("concat"), EDM(sigma_max=400.0), sampler=DPMSolverSDE(50), sigma_data=0.5)
    module.denoiser = ConditionalGaussian(module.denoiser.sde)
    module.denoiser.net, module.denoiser.weak = net("concat"), None
    return LoadedModel(module.eval(), ("part",), 44_100, LENGTH, 0.0, 0, Path("model.ckpt"))


def made(numbers, joined, **options):
    track = Track(TRACK, LENGTH, joined=joined)
    none = torch.full((len(numbers),), -1)
    return parts.make(model(), numbers, none, track, iterations=3, damping=1e-6, **options)


def truth(track: Track) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (T,) and covariance of two windows, the second of the law given its beginning."""
    A, k, hop = ConditionalGaussian(EDM()).A, track.known, track.hop
    first, second = (track.windows() @ A.mT).unbind()
    gain = torch.linalg.solve(SMOOTH[:k, :k], SMOOTH[:k, k:]).mT
    rest = SMOOTH[k:, k:] - gain @ SMOOTH[:k, k:]
    after = second[k:] + gain @ (first[hop : hop + k] - second[:k])
    # All of the second that is new hangs on the first through what they share.
    across = gain @ SMOOTH[hop : hop + k]
    corner = gain @ SMOOTH[hop : hop + k, hop : hop + k] @ gain.mT + rest
    covariance = torch.cat((torch.cat((SMOOTH, across.mT), 1), torch.cat((across, corner), 1)))
    return torch.cat((first, after)), covariance


def furthest(x, mean, covariance) -> float:
    """By how many standard errors the worst of means and covariances is off."""
    n, spread = len(x), covariance.diagonal()
    means = (x.mean(0) - mean).abs() / (spread / n).sqrt()
    errors = ((covariance**2 + spread[:, None] * spread) / n).sqrt()
    return float(torch.cat((means, ((torch.cov(x.T) - covariance).abs() / errors).flatten())).max())


def test_a_window_follows_the_law_given_what_it_shares_with_the_one_before():
    track = Track(TRACK, LENGTH, joined="posterior")
    assert (track.count, track.known) == (2, 2)
    mean, covariance = truth(track)
    assert furthest(made(range(1_500), "posterior", batch_size=1_500).double(), mean, covariance) < 3.0
    # Parts that are made alone, and cross-faded, know nothing of each other.
    assert furthest(made(range(1_500), "crossfade", batch_size=1_500).double(), mean, covariance) > 20


@pytest.mark.parametrize("joined", ["projection", "posterior", "crossfade"])
def test_a_part_is_the_same_however_many_are_made_and_at_a_time(joined):
    many = made(range(5), joined, batch_size=2)
    torch.testing.assert_close(made([3], joined)[0], many[3], rtol=1e-5, atol=1e-5)
    assert not torch.equal(many[0], many[1])


def test_a_track_of_one_window_gives_the_sounds_of_one():
    one, none = model(), torch.full((3,), -1)
    plain = one.module.sample(LENGTH, none, one.module.generators(range(3), 0), audio=TRACK[None, None, :8])
    for joined in ("projection", "posterior", "crossfade"):
        part = parts.make(one, range(3), none, Track(TRACK[:8], LENGTH, joined=joined))
        assert torch.equal(part, plain[:, 0].float())


def test_a_sampler_that_chooses_its_steps_is_refused_for_windows_that_know_of_each_other():
    with pytest.raises(ValueError, match=r"GottaGoFast chooses its steps .* --join crossfade"):
        made([0], "projection", sampler=GottaGoFast())


def test_a_long_overlap_is_taken_over_without_a_step():
    track = Track(torch.zeros(2 * 4_000), 4_000)
    assert track.known + 1_000 // 64 == track.overlap == 1_000
    time = torch.arange(2 * 4_000) / 4_000
    tone = (2 * math.pi * 50 * time).sin()
    windows = Track(tone, 4_000).windows()
    torch.testing.assert_close(track.join(windows), tone)

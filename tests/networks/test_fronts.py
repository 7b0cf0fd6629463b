import pytest
import torch
from truth import concrete

from diffwave_sde.networks import MDCT, Front, Waveform

FRONTS = [*(cls() for cls in concrete(Front)), MDCT(10), MDCT(2), MDCT(10, "kbd"), MDCT(60, "kbd")]
IDS = [f"{type(f).__name__}-{f.bands}-{getattr(f, 'window', '')}" for f in FRONTS]


def signal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=FRONTS, ids=IDS)
def front(request):
    return request.param


def test_a_front_is_an_isometry(front):
    x = signal(3, 1, 14 * front.hop)
    y = front.analyse(x)
    torch.testing.assert_close(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-6, atol=0)


def test_synthesis_inverts_analysis(front):
    x = signal(3, 1, 14 * front.hop)
    torch.testing.assert_close(front.synthesise(front.analyse(x)), x, rtol=0, atol=1e-6)
    short = signal(1, 1, front.hop)
    torch.testing.assert_close(front.synthesise(front.analyse(short)), short, rtol=0, atol=1e-6)


def test_synthesis_is_the_adjoint_of_analysis(front):
    x = signal(1, 1, 9 * front.hop)
    y = signal(*front.analyse(x).shape, seed=1)
    torch.testing.assert_close((front.analyse(x) * y).sum(), (x * front.synthesise(y)).sum(), rtol=1e-6, atol=1e-6)


def test_white_noise_stays_white(front):
    # The rows of the transform are orthonormal: the covariance of the coefficients is the identity, away from the ends.
    length = 8 * front.hop
    W = front.analyse(torch.eye(length, dtype=torch.float64)[:, None]).movedim(0, -1)  # (bands, frames, length)
    torch.testing.assert_close(W.flatten(0, 1).mT @ W.flatten(0, 1), torch.eye(length).double(), rtol=0, atol=1e-6)
    inner = W[:, 1:-1].flatten(0, 1)
    torch.testing.assert_close(inner @ inner.mT, torch.eye(len(inner)).double(), rtol=0, atol=1e-6)


def test_channels_are_seen_one_by_one(front):
    x = signal(2, 3, 6 * front.hop)
    parts = [front.analyse(x[:, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(front.analyse(x), torch.cat(parts, 1))


def test_autocast_leaves_the_transform_exact(front):
    x = signal(2, 1, 7 * front.hop).float()
    with torch.autocast("cpu", torch.bfloat16):
        back = front.synthesise(front.analyse(x))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_mdct_is_the_formula():
    # Princen, Johnson and Bradley 1987, one frame by one: X_k = √(2/b) Σ w_n x_n cos(π/b (n + ½ + b/2)(k + ½)).
    b = 6
    x = signal(1, 1, 5 * b)
    n = torch.arange(2 * b, dtype=torch.float64)
    padded = torch.nn.functional.pad(x[0, 0], (b, b))
    got = MDCT(b).analyse(x)[0]
    assert got.shape == (b, 6)
    for frame in range(6):
        window = (torch.pi * (n + 0.5) / (2 * b)).sin() * padded[frame * b : frame * b + 2 * b]
        for k in range(b):
            expected = (2 / b) ** 0.5 * (window * (torch.pi / b * (n + 0.5 + b / 2) * (k + 0.5)).cos()).sum()
            assert float(got[k, frame]) == pytest.approx(float(expected), abs=1e-6)


def test_mdct_bands_are_frequencies():
    # A tone of 1 kHz at 44.1 kHz lies in the third band of 367 Hz.
    t = torch.arange(60 * 50, dtype=torch.float64) / 44_100
    energy = MDCT(60).analyse((2 * torch.pi * 1000 * t).sin()[None, None])[0].square().sum(1)
    assert int(energy.argmax()) == 2
    assert energy[2] > 0.5 * energy.sum()


@pytest.mark.parametrize("bands", [0, 1, 7])
def test_bands_that_do_not_fold_are_refused(bands):
    with pytest.raises(ValueError, match="even number of bands"):
        MDCT(bands)


def test_the_basis_is_not_saved_with_the_weights():
    assert not MDCT(60).state_dict()
    assert not Waveform().state_dict()


def test_a_coarser_front_has_longer_frames(front):
    coarse = front.coarser(6)
    assert coarse.bands == coarse.hop == 6 * front.hop
    assert getattr(coarse, "window", "sine") == getattr(front, "window", "sine")


def test_a_line_leaks_less_into_the_far_bands_by_the_other_window():
    t = torch.arange(6000, dtype=torch.float64)
    line = (2 * torch.pi * 3.5 / 120 * t).sin()[None, None]  # in the middle of band 3
    power = {w: MDCT(60, w).analyse(line)[0, :, 2:-2].square().mean(1) for w in ("sine", "kbd")}
    near, far = ((power["kbd"] / power["sine"])[rows] for rows in (slice(4, 6), slice(12, 60)))
    assert 10 * far.mean().log10() < -15
    assert near.mean() > 1


def test_another_window_is_refused():
    with pytest.raises(ValueError, match=r"window = 'hann': choose sine or kbd"):
        MDCT(60, "hann")


@pytest.mark.parametrize("window", ["sine", "kbd"])
def test_the_lowest_bands_are_those_of_the_whole(window):
    whole, low = MDCT(60, window).double(), MDCT(60, window, lowest=7).double()
    x = signal(2, 3, 600)
    frames = whole.analyse(x).unflatten(1, (3, 60))
    assert (low.bands, low.hop) == (7, 60)
    # to rounding: a CPU may sum a product of other shape in another order
    torch.testing.assert_close(low.analyse(x), frames[:, :, :7].flatten(1, 2), rtol=0, atol=1e-13)
    padded = torch.zeros(2, 60, 11, dtype=torch.float64)
    padded[:, :7] = frames[:, 0, :7]
    torch.testing.assert_close(low.synthesise(padded[:, :7]), whole.synthesise(padded))


def test_what_the_lowest_bands_answer_stays_low():
    low = MDCT(20).coarser(6, lowest=20).double()
    assert (low.bands, low.hop) == (20, 120)
    power = torch.fft.rfft(low.synthesise(signal(4, 20, 401))).abs().square().mean((0, 1))
    band = len(power) / 120
    assert power[int(30 * band) :].sum() < 1e-3 * power.sum()
    assert MDCT(20).coarser(6).bands == MDCT(60, lowest=200).coarser(2).bands == 120
    assert Waveform().coarser(6, 2).bands == 2


def test_keeping_no_band_is_refused():
    with pytest.raises(ValueError, match="lowest = 0"):
        MDCT(60, lowest=0)

"""The learned embedding tells what it was taught; its weights are the package's, one's own, or refused."""

from itertools import pairwise

import pytest
import torch
import torchaudio.functional as F
from safetensors.torch import load_file, save_file

from diffwave_sde import audio
from diffwave_sde.data.sources import Rendered
from diffwave_sde.metrics import Learned, frechet
from diffwave_sde.metrics.learned import WEIGHTS, Encoder


@pytest.fixture(scope="module")
def drums():
    """Built-in drums that the network was not trained on, (150, T)."""
    clips = [Rendered("drums", i, 5).load(audio.LENGTH).window for i in range(150)]
    return torch.stack([torch.from_numpy(clip).float() / 32768 for clip in clips])


def noise(like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def residue(x, decibels):
    """Noise about 1 kHz that follows the envelope, as much below it."""
    band = F.bandpass_biquad(noise(x), audio.RATE, 1000, 1)
    envelope = torch.nn.functional.avg_pool1d(x.square()[:, None], 221, 1, 110)[:, 0].sqrt()
    return x + 10 ** (-decibels / 20) * envelope * band / band.std()


def low_passed(x, hertz):
    for _ in range(3):
        x = F.lowpass_biquad(x, audio.RATE, hertz)
    return x


# From weak to strong. An untrained network is moved too, but by much hiss or few bits no more than by little.
STRONGER = {
    "hiss, dBFS": (lambda x, v: x + 10 ** (v / 20) * noise(x), (-70, -60, -40)),
    "bits": (lambda x, v: (x * (2 ** (v - 1) - 1)).round() / (2 ** (v - 1) - 1), (10, 8, 6)),
    "low pass, Hz": (low_passed, (10_000, 5000, 2000)),
    "residue, dB below": (residue, (40, 30, 20)),
}


@pytest.mark.parametrize("what", STRONGER)
def test_a_distance_grows_with_what_is_wrong(what, drums):
    spoil, strengths = STRONGER[what]
    embed, (real, other) = Learned(), drums.split(75)
    a = embed(real)
    distances = [frechet(a, embed(other)), *(frechet(a, embed(spoil(other, v))) for v in strengths)]
    assert distances[1] > 2 * distances[0]
    assert all(1.25 * weak < strong for weak, strong in pairwise(distances))


def test_variances_add_up_to_one(drums):
    assert float(Learned()(drums).var(0).sum()) == pytest.approx(1, rel=0.2)


def test_the_weights_are_small_and_in_half_precision():
    assert WEIGHTS.stat().st_size < 1_000_000
    assert {v.dtype for v in load_file(WEIGHTS).values() if v.is_floating_point()} == {torch.float16}


def test_the_weights_are_read_once():
    assert Learned().encoder is Learned().encoder


def test_another_file_of_weights_is_honoured(drums, tmp_path):
    weights = load_file(WEIGHTS)
    weights["out.weight"] *= 2
    weights["out.bias"] *= 2
    save_file(weights, tmp_path / "own.safetensors")
    own = Learned(str(tmp_path / "own.safetensors"))
    torch.testing.assert_close(own(drums[:3]), 2 * Learned()(drums[:3]), rtol=1e-3, atol=1e-5)


def test_the_network_is_not_changed_by_use(drums):
    embed = Learned()
    before = embed(drums[:3])
    embed(drums[3:20])
    assert (embed(drums[:3]) == before).all()
    assert not any(p.requires_grad for p in embed.encoder.parameters())


def missing(path):
    pass


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def another_size(path):
    save_file(Encoder(size=8).state_dict(), path)


def text(path):
    path.write_text("no weights")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("write", [missing, foreign, another_size, text, empty])
def test_what_are_no_weights_is_refused_in_one_line(write, tmp_path):
    path = tmp_path / "own.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"own\.safetensors: not the weights of the learned embedding") as error:
        Learned(str(path))
    assert "\n" not in str(error.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not the weights of the learned embedding"):
        Learned(str(tmp_path))

"""What a listener hears moves the embeddings, and what none hears does not."""

import math

import pytest
import torch
import torchaudio.functional as F

from diffwave_sde import audio
from diffwave_sde.data.sources import Rendered
from diffwave_sde.metrics import EMBEDDINGS, LogMel, aligned, frechet, kernel
from diffwave_sde.metrics.embeddings import mel_weights

COUNT = 40


@pytest.fixture(scope="module")
def drums():
    """Two sets of built-in drums, (COUNT, T) each, and the classes of both."""
    clips = [Rendered("drums", i, 5).load(audio.LENGTH) for i in range(2 * COUNT)]
    sounds = torch.stack([torch.from_numpy(c.window).float() / 32768 for c in clips])
    return sounds[:COUNT], sounds[COUNT:], [c.label for c in clips[:COUNT]], [c.label for c in clips[COUNT:]]


@pytest.fixture(params=EMBEDDINGS, scope="module")
def embed(request):
    """Every embedding."""
    return EMBEDDINGS[request.param]()


def noise(like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def shuffled_phases(x):
    spectrum = torch.fft.rfft(x)
    turn = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    return torch.fft.irfft(spectrum.abs() * torch.polar(torch.ones_like(turn), turn), n=x.shape[-1])


def cut(x, seconds):
    end = audio.PRE_ROLL + round(seconds * audio.RATE)
    return torch.cat((audio.fade_out(x[:, :end], 88), torch.zeros_like(x[:, end:])), 1)


def low_passed(x, hertz):
    for _ in range(3):
        x = F.lowpass_biquad(x, audio.RATE, hertz)
    return x


WORSE = {
    "hiss at -60 dBFS": lambda x: x + 1e-3 * noise(x),
    "noise 20 dB below": lambda x: x + 0.1 * x.square().mean(1, keepdim=True).sqrt() * noise(x),
    "low pass at 5 kHz": lambda x: low_passed(x, 5000),
    "tails cut at 120 ms": lambda x: cut(x, 0.12),
    "shuffled phases": shuffled_phases,
    "8 bits": lambda x: (x * 127).round() / 127,
    "one sound, repeated": lambda x: x[:1].expand(len(x), -1),
}
THE_SAME = {
    "gain": lambda x: 0.5 * x,
    "polarity": lambda x: -x,
    "3 ms later": lambda x: torch.nn.functional.pad(x, (132, 0))[:, : x.shape[1]],
    "shorter files": lambda x: x[:, : int((x.abs().amax(0) > 0).nonzero()[-1]) + 1],
}


@pytest.mark.parametrize("what", WORSE)
def test_what_is_heard_moves_the_distance(what, drums, embed):
    real, other, *_ = drums
    a, b = embed(real), embed(WORSE[what](other))
    assert frechet(a, b) > 2 * frechet(a, embed(other))
    assert kernel(a, b) > kernel(a, embed(other)) + 0.1


@pytest.mark.parametrize("what", THE_SAME)
def test_what_is_not_heard_does_not(what, drums, embed):
    real, other, *_ = drums
    a = embed(real)
    assert frechet(a, embed(THE_SAME[what](other))) == pytest.approx(frechet(a, embed(other)), rel=0.05)


def test_classes_swapped_are_heard_class_by_class(drums, embed):
    real, other, kinds, others = drums
    for kind in set(kinds):
        a = embed(real[[k == kind for k in kinds]])
        own, *rest = (embed(other[[k == name for k in others]]) for name in (kind, *sorted(set(kinds) - {kind})))
        assert min(frechet(a, b) for b in rest) > 3 * frechet(a, own)


def test_a_distance_is_in_decibels(drums):
    # Bands that are all 6 dB louder but for the loudest, whose level is the reference, lie some 6 dB apart.
    x = 0.01 * noise(torch.zeros(1, 22_050))
    x[:, audio.PRE_ROLL] = 1.0  # an attack that sets the peak
    louder = x.clone()
    louder[:, audio.PRE_ROLL + 1024 :] *= 2
    a, b = LogMel()(x), LogMel()(louder)
    assert 3 < float((a - b).norm()) < 6


def test_sounds_are_heard_from_their_onset():
    x = torch.zeros(3, 2000)
    x[0, 500:520], x[1, 10:30] = 0.5, -0.25  # the third is silence
    out = aligned(x, 300)
    assert out.shape == (3, 300)
    assert out[0].abs().argmax() == out[1].abs().argmax() == audio.PRE_ROLL
    assert out[:2].abs().amax(1).tolist() == [1, 1]
    assert not out[2].any()


def test_silence_has_an_embedding(embed):
    out = embed(torch.zeros(2, 300))
    assert out.isfinite().all()
    assert out.dtype == torch.float32
    assert (out[0] == out[1]).all()


def test_a_sound_s_embedding_does_not_depend_on_its_batch(drums, embed):
    real = drums[0][:7]
    torch.testing.assert_close(embed(real, batch=2), embed(real), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("bins", "bands"), [(513, 64), (1025, 64), (257, 20)])
def test_mel_bands_are_those_of_torchaudio(bins, bands):
    expected = F.melscale_fbanks(bins, 30.0, 20_000.0, bands, audio.RATE, norm=None, mel_scale="htk")
    torch.testing.assert_close(mel_weights(bins, bands), expected, rtol=0, atol=1e-6)

"""Outliers are told from what is merely complex, or merely silent."""

import numpy as np
import pytest
import torch

from diffwave_sde.collection.clips import from_waveforms
from diffwave_sde.collection.outliers import excess_bits, flac_bits, rank, spectral_bits
from diffwave_sde.collection.scores import Score
from diffwave_sde.data.items import pack
from diffwave_sde.random import stream

G = stream("outliers")
LENGTH = 4000


def noise(level: float) -> np.ndarray:
    return pack(level * torch.randn(LENGTH, generator=G))


def test_flac_needs_as_many_bits_as_noise_has_and_none_for_silence():
    sigma = 0.05
    entropy = np.log2(sigma * np.sqrt(2 * np.pi * np.e) * 32768)
    bits = flac_bits(np.stack([noise(sigma), np.zeros(LENGTH, "<i2")]))
    assert float(bits[0]) == pytest.approx(entropy, rel=0.1)
    assert float(bits[0] - bits[1]) == pytest.approx(entropy, rel=0.05)


def test_a_gaussian_with_the_spectrum_needs_the_entropy_of_noise():
    windows = np.stack([noise(0.05) for _ in range(20)])
    entropy = np.log2(0.05 * np.sqrt(2 * np.pi * np.e) * 32768)
    assert float(spectral_bits(windows, windows).mean()) == pytest.approx(entropy, rel=0.01)


def test_a_line_is_found_among_many_outliers():
    complexity = torch.linspace(1, 12, 60, dtype=torch.float64)
    bits = 3 + 0.7 * complexity + 0.05 * torch.randn(60, generator=G, dtype=torch.float64)
    wrong = torch.arange(0, 60, 4)
    bits[wrong] += 2
    found = excess_bits(bits, complexity)
    assert set(found.argsort(descending=True)[:15].tolist()) == set(wrong.tolist())
    right = found[torch.arange(60) % 4 != 0]
    assert float(right.abs().max()) < 5 < float(found[wrong].min())


def library(bits: list[float], doubts: list[float] | None = None):
    """Noises of rising level with these bits; the classes are all one."""
    levels = np.geomspace(1e-3, 0.1, len(bits))
    sounds = torch.stack([level * torch.randn(LENGTH, generator=G) for level in levels])
    found = from_waveforms(sounds, ["a"] * len(bits), [f"{i}.wav" for i in range(len(bits))], LENGTH)
    found.windows[:] = np.stack([noise(level) for level in levels])  # from_waveforms makes all of them as loud
    doubts = doubts or [-1.0] * len(bits)
    return found, [
        Score(f"{i}.wav", "a", True, b, 0.0, 0.0, 0.0, d, "b")
        for i, (b, d) in enumerate(zip(bits, doubts, strict=True))
    ]


def test_plain_likelihood_calls_silence_the_most_typical_sound_and_the_rank_does_not():
    # A model that knows its sounds: a little less than FLAC, but for its own noise floor of four bits.
    windows = np.stack([noise(level) for level in np.geomspace(1e-3, 0.1, 20)])
    bits = torch.maximum(flac_bits(windows) * 0.7, torch.tensor(0.0).double())
    found, scores = library([*bits.tolist()])
    found.windows[0] = 0
    scores[0] = Score("0.wav", "a", True, 4.04, 0.0, 0.0, 1.0, -1.0, "b")
    scores = [scores[0], *(Score(s.file, "a", True, s.bits + 3.3, 0, 0, 0, -1.0, "b") for s in scores[1:])]
    plain = sorted(range(20), key=lambda i: -scores[i].bits)
    ranked = [one.row for one in rank(found, scores)]
    assert plain[-1] == 0
    assert ranked.index(0) < 10


def test_a_class_that_explains_a_sound_better_is_named():
    bits = (flac_bits(library([1.0] * 12)[0].windows) * 0.7 + 3).tolist()
    found, scores = library(bits, [-10.0] * 11 + [40.0])
    first = rank(found, scores)[0]
    assert (first.row, first.other, first.why) == (11, "b", "more like b")


def test_too_few_sounds_are_refused():
    found, scores = library([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="3 sounds: what is usual takes 8"):
        rank(found, scores)

import math

import pytest
import torch

from diffwave_sde import audio


def test_expand_inverts_compress_to_float64_precision():
    x = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    assert (audio.expand(audio.compress(x)) - x).abs().max() < 1e-14
    x = x.float()
    assert (audio.expand(audio.compress(x)) - x).abs().max() < 1e-6


def test_companding_has_the_figures_of_the_mu_law():
    one = torch.ones((), dtype=torch.float64)
    assert audio.compress(one) == 1
    assert audio.compress(-one) == -1
    assert audio.compress(0 * one) == 0
    # -60 dBFS: log(1 + 0.255) / log(256)
    assert float(audio.compress(1e-3 * one)) == pytest.approx(0.04096, abs=1e-5)
    # companding raises what is near silence by 33 dB
    slope = float(audio.compress(1e-9 * one)) / 1e-9
    assert 20 * math.log10(slope) == pytest.approx(33.25, abs=0.1)


def test_expand_clamps_what_would_expand_to_1_74():
    y = torch.tensor(1.1, dtype=torch.float64)
    assert float(torch.expm1(y * math.log(256)) / 255) == pytest.approx(1.74, abs=5e-3)
    assert float(audio.expand(y)) == pytest.approx(1, abs=1e-12)
    assert float(audio.expand(-y)) == pytest.approx(-1, abs=1e-12)


def test_mu_0_is_the_identity_and_a_negative_mu_an_error():
    x = torch.tensor([-1.5, 0.0, 0.3])
    assert torch.equal(audio.compress(x, 0), x)
    assert torch.equal(audio.expand(x, 0), x)
    for f in (audio.compress, audio.expand):
        with pytest.raises(ValueError, match="mu"):
            f(x, -1)

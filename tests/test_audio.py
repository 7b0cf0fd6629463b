import math
import os
import stat

import numpy as np
import pytest
import soundfile
import torch

from diffwave_sde import audio


def noise(samples: int, level: float, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, level, samples).astype(np.float32))


def hit(samples: int = 15_000, hz: float = 180.0, decay: float = 0.05) -> torch.Tensor:
    """A decaying cosine: at its first sample it is at its peak."""
    t = torch.arange(samples) / audio.RATE
    return 0.8 * torch.exp(-t / decay) * torch.cos(2 * math.pi * hz * t)


# -------------------------------------------------------------------------------------------- companding


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


# ---------------------------------------------------------------------------------------- reading, writing


def test_what_is_written_is_read_back_to_24_bits_at_its_own_level(tmp_path):
    x = noise(5_000, 0.02)
    audio.write(tmp_path / "new" / "folder" / "x.wav", x)
    assert soundfile.info(tmp_path / "new" / "folder" / "x.wav").subtype == "PCM_24"
    y, rate = audio.read(tmp_path / "new" / "folder" / "x.wav")
    assert rate == 44_100
    assert (x - y).abs().max() <= 2**-23


def test_full_scale_is_clamped_and_does_not_wrap(tmp_path):
    audio.write(tmp_path / "x.wav", torch.tensor([1.0, -1.0, 3.0, -3.0, 0.0]))
    y, _ = audio.read(tmp_path / "x.wav")
    assert y.tolist() == pytest.approx([1, -1, 1, -1, 0], abs=1e-6)


def test_writing_nan_is_an_error_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.wav"
    audio.write(path, noise(100, 0.1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"x\.wav.*NaN"):
        audio.write(path, torch.tensor([0.0, math.nan]))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.wav"]


def test_a_failed_write_leaves_neither_a_half_file_nor_a_temporary_one(tmp_path, monkeypatch):
    def fail(path, *args, **kwargs):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        audio.write(tmp_path / "x.wav", noise(100, 0.1))
    assert os.listdir(tmp_path) == []


def test_a_written_file_has_the_usual_permissions(tmp_path):
    audio.write(tmp_path / "x.wav", hit())
    (tmp_path / "y").write_text("")
    assert stat.S_IMODE((tmp_path / "x.wav").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_sample_format_and_channel_count_reads_as_the_same_mono(tmp_path, subtype, channels):
    x = hit(4_000)
    soundfile.write(tmp_path / "x.wav", x[:, None].repeat(1, channels).numpy(), 44_100, subtype)
    y, _ = audio.read(tmp_path / "x.wav")
    assert y.shape == x.shape
    assert (x - y).abs().max() < (2**-6 if subtype == "PCM_U8" else 2**-14)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_101, 48_000, 96_000, 192_000])
def test_a_tone_keeps_its_pitch_length_and_level_from_any_rate(tmp_path, rate):
    t = np.arange(rate) / rate
    soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate, "FLOAT")
    y, source = audio.read(tmp_path / "x.wav")
    assert source == rate
    assert abs(len(y) - 44_100) <= 2
    middle = y[10_000:32_050]
    spectrum = torch.fft.rfft(middle.double() * torch.hann_window(len(middle), dtype=torch.float64)).abs()
    assert abs(int(spectrum.argmax()) * 44_100 / len(middle) - 1000) < 2.1
    assert float(middle.square().mean().sqrt()) == pytest.approx(0.5 / math.sqrt(2), rel=1e-3)


def test_channels_out_of_phase_do_not_cancel_to_silence(tmp_path):
    x = hit(4_000)
    soundfile.write(tmp_path / "x.wav", torch.stack([x, -x], 1).numpy(), 44_100, "FLOAT")
    y, _ = audio.read(tmp_path / "x.wav")
    assert torch.equal(y.abs(), x.abs())


def bad_files(folder):
    """Name -> what the error says of it."""
    x = noise(20_000, 0.1).numpy()
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "headeronly.wav", x[:0], 44_100)
    soundfile.write(folder / "whole.wav", x, 44_100)
    soundfile.write(folder / "whole.flac", x, 44_100)
    soundfile.write(folder / "whole.aiff", x, 44_100)
    for kind in ("wav", "flac", "aiff"):
        data = (folder / f"whole.{kind}").read_bytes()
        (folder / f"cut.{kind}").write_bytes(data[: len(data) // 2])
        (folder / f"whole.{kind}").unlink()
    x[77] = np.nan
    soundfile.write(folder / "nan.wav", x, 44_100, "FLOAT")
    x[77] = np.inf
    soundfile.write(folder / "inf.wav", x, 44_100, "DOUBLE")
    soundfile.write(folder / "slow.wav", noise(5_000, 0.1).numpy(), 1)
    (folder / "text.wav").write_text("a shopping list")
    (folder / "raw.raw").write_bytes(bytes(range(256)) * 10)
    (folder / "link.wav").symlink_to(folder / "nowhere.wav")
    return {
        "empty.wav": "empty", "headeronly.wav": "empty", "cut.wav": "truncated", "cut.flac": "not readable|truncated",
        "cut.aiff": "truncated", "nan.wav": "NaN", "inf.wav": "infinite", "slow.wav": "1 Hz",
        "text.wav": "not readable", "raw.raw": "not readable", "link.wav": "dangling",
    }  # fmt: skip


def test_every_bad_file_is_one_clear_error_that_names_it(tmp_path):
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises((ValueError, OSError), match=rf"(?i){name}: .*({reason})") as caught:
            audio.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="no such file"):
        audio.read(tmp_path / "never.wav")
    with pytest.raises(OSError, match="folder"):
        audio.read(tmp_path)


# ------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("start", [0, 1, 43, 44, 1_000, 30_000])
def test_the_onset_is_found_to_the_sample_in_silence(start):
    x = torch.cat([torch.zeros(start), hit()])
    assert audio.onset(x) == start


@pytest.mark.parametrize("level", [-80, -60, -45, -35])
def test_the_onset_is_found_above_a_noise_floor(level):
    x = torch.cat([torch.zeros(20_000), hit()])
    x = x + noise(len(x), 10 ** (level / 20))
    assert abs(audio.onset(x) - 20_000) <= 22


@pytest.mark.parametrize("gap", [0, 300, 3_000])
def test_a_pre_echo_is_not_the_onset(gap):
    before = torch.cat([noise(1_200, 0.004), torch.zeros(gap)])
    assert abs(audio.onset(torch.cat([torch.zeros(500), before, hit()])) - (1_700 + gap)) <= 22


def test_a_swell_begins_where_it_leaves_the_floor_not_where_it_is_loud():
    swell = noise(30_000, 0.3) * torch.linspace(0, 1, 30_000)
    found = audio.onset(torch.cat([torch.zeros(4_000), swell]))
    assert 4_000 <= found <= 4_000 + 600


def test_a_soft_first_hit_is_the_onset_though_a_louder_one_follows():
    x = torch.cat([torch.zeros(1_000), 0.2 * hit(6_000), hit()])
    assert audio.onset(x) == 1_000


def test_dc_moves_neither_the_onset_nor_the_window():
    x = torch.cat([torch.zeros(2_000), hit()])
    assert abs(audio.offset(x + 0.1) - 0.1) < 1e-4
    assert (audio.window(x + 0.1) - audio.window(x)).abs().max() < 1e-3


def test_an_asymmetric_sound_is_not_mistaken_for_dc():
    push = torch.exp(-torch.arange(20_000) / 1_500.0)
    assert float(push.mean()) > 0.05
    assert abs(audio.offset(push)) < 1e-3


@pytest.mark.parametrize("length", [500, 4_096, 21_000, 44_100])
@pytest.mark.parametrize("samples", [300, 15_000, 200_000])
def test_a_window_has_its_length_its_peak_and_its_onset_whatever_comes_in(length, samples):
    x = torch.cat([torch.zeros(777), hit(samples, decay=2.0)])
    y = audio.window(x, length)
    assert y.shape == (length,)
    assert y.dtype == torch.float32
    assert float(y.abs().max()) == pytest.approx(audio.PEAK, rel=1e-6)
    assert torch.equal(y[: audio.PRE_ROLL], torch.zeros(audio.PRE_ROLL))
    assert float(y[audio.PRE_ROLL].abs()) > 0.5
    assert y[-1] == 0


def test_a_long_sound_ends_in_a_fade_without_a_step():
    y = audio.window(hit(100_000, decay=5.0), 21_000)
    assert y[-1] == 0
    assert y[-200:].abs().max() < 0.03
    assert y[10_000:18_000].abs().max() > 0.5


def test_padding_is_exact_silence():
    y = audio.window(hit(5_000), 21_000)
    assert torch.equal(y[5_100:], torch.zeros(21_000 - 5_100))


@pytest.mark.parametrize(
    "x", [torch.zeros(1_000), torch.zeros(0), torch.ones(1), 1e-4 * hit(), torch.full((9_000,), 0.2)]
)
def test_silence_is_an_error(x):
    with pytest.raises(ValueError, match="silent"):
        audio.window(x)


@pytest.mark.parametrize("length", [-5, 0, audio.PRE_ROLL])
def test_a_window_without_room_is_an_error(length):
    with pytest.raises(ValueError, match="length"):
        audio.window(hit(), length)

import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from signals import hit, noise

from diffwave_sde import audio


@pytest.mark.parametrize(("subtype", "error"), [("FLOAT", 0), ("PCM_24", 2**-23), ("PCM_16", 2**-15)])
def test_what_is_written_is_read_back_at_its_own_level(tmp_path, subtype, error):
    path = tmp_path / "new" / "folder" / "x.wav"
    x = noise(5_000, 0.02)
    assert audio.write(path, x, subtype=subtype) == 0
    assert soundfile.info(path).subtype == subtype
    y, rate = audio.read(path)
    assert rate == 44_100
    assert (x - y).abs().max() <= error


def test_floats_beyond_full_scale_are_kept_and_counted(tmp_path):
    x = torch.tensor([1.0, -1.0, 3.0, -3.0, 0.0])
    assert audio.write(tmp_path / "x.wav", x) == 2
    assert torch.equal(audio.read(tmp_path / "x.wav")[0], x)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_16"])
def test_full_scale_is_clamped_does_not_wrap_and_is_counted(tmp_path, subtype):
    assert audio.write(tmp_path / "x.wav", torch.tensor([1.0, -1.0, 3.0, -3.0, 0.0]), subtype=subtype) == 2
    y, _ = audio.read(tmp_path / "x.wav")
    assert y.tolist() == pytest.approx([1, -1, 1, -1, 0], abs=1e-6 if subtype == "PCM_24" else 2**-15)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_of_floats_is_what_other_programs_write_and_the_same_bytes_each_time(tmp_path, channels):
    x = torch.stack([noise(1_000, 0.5, seed) for seed in range(channels)])
    for name in "ab":
        audio.write(tmp_path / name, x if channels > 1 else x[0], rate=48_000)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with soundfile.SoundFile(tmp_path / "a") as file:
        assert (file.format, file.subtype, file.samplerate, file.channels) == ("WAV", "FLOAT", 48_000, channels)
        assert "should be" not in file.extra_info
        assert "***" not in file.extra_info
        assert np.array_equal(file.read(dtype="float32", always_2d=True).T, x.numpy())


def test_what_no_wav_file_holds_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"x\.wav: subtype must be one of FLOAT, PCM_24, PCM_16, not MP3"):
        audio.write(tmp_path / "x.wav", hit(), subtype="MP3")
    with pytest.raises(ValueError, match=r"\(channels, T\)"):
        audio.write(tmp_path / "x.wav", torch.zeros(1, 1, 5))


def test_writing_nan_is_an_error_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.wav"
    audio.write(path, noise(100, 0.1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"x\.wav.*NaN"):
        audio.write(path, torch.tensor([0.0, math.nan]))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.wav"]


def test_a_failed_write_leaves_neither_a_half_file_nor_a_temporary_one(tmp_path, monkeypatch):
    def fail(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        audio.write(tmp_path / "x.wav", noise(100, 0.1))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("subtype", audio.files.SUBTYPES)
def test_what_a_file_says_of_itself_is_read_by_libsndfile_and_the_sound_is_the_same(tmp_path, subtype):
    x = noise(101, 0.1)
    said = {"INAM": "Kick 1", "ICMT": "model drums, seed 7: naïve", "ICOP": "CC0-1.0", "ISFT": "diffwave-sde"}
    audio.write(tmp_path / "x.wav", x, 48_000, subtype, said)
    audio.write(tmp_path / "y.wav", x, 48_000, subtype)
    with soundfile.SoundFile(tmp_path / "x.wav") as file:
        assert file.samplerate == 48_000
        assert file.subtype == subtype
        assert {"INAM": file.title, "ICMT": file.comment, "ICOP": file.copyright, "ISFT": file.software} == said
    assert torch.equal(audio.decode(tmp_path / "x.wav")[0], audio.decode(tmp_path / "y.wav")[0])
    assert (tmp_path / "x.wav").stat().st_size == 8 + int.from_bytes((tmp_path / "x.wav").read_bytes()[4:8], "little")


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

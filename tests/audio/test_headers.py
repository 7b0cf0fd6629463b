"""One rule for every container: whole files are read, cut ones refused, unfinished headers filled in."""

import numpy as np
import pytest
import soundfile
from signals import noise

from diffwave_sde import audio
from diffwave_sde.audio.headers import UNTOLD

SAMPLES = 20_000
NOT_READ = {"RAW"}  # it has no header
# what libsndfile writes and does not read again
CODINGS_NOT_READ = {("AIFF", "DWVW_16"), ("AIFF", "DWVW_24")}


def written(folder, container):
    """The files of a container, one for each coding of samples that it is written with."""
    x = noise(SAMPLES, 0.2).numpy().clip(-0.9, 0.9)
    for subtype in soundfile.available_subtypes(container):
        path = folder / f"{subtype}.{container.lower()}"
        for rate in (44_100, 8_000, 48_000):  # WVE is at 8 kHz, Opus at 48
            try:
                soundfile.write(path, x, rate, subtype, format=container)
            except (soundfile.LibsndfileError, ValueError):
                path.unlink(missing_ok=True)
                continue
            yield subtype, path
            break


@pytest.mark.parametrize("container", sorted(soundfile.available_formats()))
def test_a_whole_file_is_read_and_a_cut_one_refused_in_every_container(tmp_path, container):
    files = list(written(tmp_path, container))
    assert files
    for subtype, path in files:
        data = path.read_bytes()
        if container in NOT_READ or (container, subtype) in CODINGS_NOT_READ:
            with pytest.raises(OSError, match="not readable"):
                audio.decode(path)
            continue
        x, _ = audio.decode(path)
        # codings of blocks fill the last one
        assert SAMPLES <= len(x) <= SAMPLES + 500, subtype
        for share in (0.5, 0.9):
            path.write_bytes(data[: int(share * len(data))])
            if container not in UNTOLD:
                with pytest.raises((ValueError, OSError), match=rf"{path.name}: (truncated|not readable)"):
                    audio.decode(path)
            elif (subtype, share) != ("PCM_24", 0.9):  # PAF of 24 bits knows its blocks
                # if this fails, the container tells by now: take it from UNTOLD, and from docs/data.md
                assert len(audio.decode(path)[0]) < 0.95 * SAMPLES


def zero(data, marker, first, last):
    """The bytes with those from `first` to `last` after the beginning of a marker set to 0."""
    at = data.index(marker)
    return data[: at + first] + bytes(last - first) + data[at + last :]


@pytest.mark.parametrize(
    ("container", "subtype", "marker", "first", "last"),
    [
        ("WAV", "PCM_16", b"data", 4, 8),
        ("WAV", "FLOAT", b"data", 4, 8),
        ("WAV", "IMA_ADPCM", b"data", 4, 8),
        ("WAVEX", "PCM_24", b"data", 4, 8),
        ("RF64", "PCM_16", b"ds64", 16, 32),
        ("RF64", "DOUBLE", b"ds64", 8, 32),
        ("AU", "PCM_16", b".snd", 8, 12),
        ("AIFF", "PCM_16", b"SSND", 4, 8),
        ("SVX", "PCM_16", b"BODY", 4, 8),
        ("W64", "PCM_24", b"data", 16, 24),
    ],
)
def test_a_header_that_was_never_finished_hides_no_samples(tmp_path, container, subtype, marker, first, last):
    soundfile.write(tmp_path / "x", noise(SAMPLES, 0.1).numpy(), 44_100, subtype, format=container)
    whole, _ = audio.decode(tmp_path / "x")
    data = zero((tmp_path / "x").read_bytes(), marker, first, last)
    for broken in (data, data[:4] + bytes(4) + data[8:]) if container.startswith("WAV") else (data,):
        (tmp_path / "x").write_bytes(broken)
        x, rate = audio.decode(tmp_path / "x")
        assert rate == 44_100
        assert np.array_equal(x, whole)


def test_a_file_without_samples_is_empty_whatever_follows_its_header(tmp_path):
    for container in ("WAV", "WAVEX", "RF64", "AU", "AIFF", "W64"):
        path = tmp_path / f"x.{container.lower()}"
        soundfile.write(path, np.zeros(0), 44_100, "PCM_16", format=container)
        bare = path.read_bytes()
        for more in (b"", b"LIST" + bytes(4)) if container in ("WAV", "WAVEX") else (b"",):
            path.write_bytes(bare + more)
            with pytest.raises(ValueError, match=rf"{path.name}: empty"):
                audio.decode(path)


@pytest.mark.parametrize(
    ("container", "marker", "skip", "new"),
    [("FLAC", b"fLaC", 21, b"\xf0\0\0\0\0"), ("CAF", b"data", 4, b"\xff" * 8)],
)
def test_a_length_that_is_not_told_is_said_where_the_file_cannot_be_read(tmp_path, container, marker, skip, new):
    path = tmp_path / "x"
    soundfile.write(path, noise(SAMPLES, 0.1).numpy(), 44_100, "PCM_16", format=container)
    data = path.read_bytes()
    at = data.index(marker) + skip
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    with pytest.raises(OSError, match="x: its header does not say how long it is"):
        audio.decode(path)


def test_an_mp3_without_a_header_of_its_length_is_as_long_as_its_file(tmp_path):
    soundfile.write(tmp_path / "x.mp3", noise(SAMPLES, 0.1).numpy(), 44_100, format="MP3")
    data = (tmp_path / "x.mp3").read_bytes()
    start = next(k for marker in (b"Xing", b"Info") if (k := data.find(marker)) >= 0)
    begin = data.index(b"\xff\xfb", start)  # the frame after the one that holds it
    (tmp_path / "y.mp3").write_bytes(data[begin : (begin + len(data)) // 2])
    assert len(audio.decode(tmp_path / "y.mp3")[0]) < 0.7 * SAMPLES

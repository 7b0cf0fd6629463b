"""Reading and writing files of sound."""

from __future__ import annotations

import os

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffwave_sde.atomic import atomic_write
from diffwave_sde.audio.clips import RATE, resample


def decode(path: str | os.PathLike, seconds: float | None = None) -> tuple[Tensor, int]:
    """Reads any file that libsndfile reads, mixed to mono, at its own rate.

    The channels are averaged; where they cancel (out of phase), the loudest one is taken instead.

    Args:
        path: the file
        seconds: read no more than this from its beginning; None reads all of it

    Returns:
        waveform (T,), float32, and its sample rate in Hz

    Raises:
        OSError: if the file is missing, unreadable or not audio
        ValueError: if it is empty, truncated, at an impossible rate, or holds NaN or infinities
    """
    name = os.fspath(path)
    try:
        # bytes: a file name need not be valid text
        with soundfile.SoundFile(os.fsencode(name)) as file:
            rate, log = file.samplerate, file.extra_info
            # an MPEG header's frame count may be an estimate
            share = 0.95 if file.format in ("MP3", "MPEG") else 1.0
            if not 1_000 <= rate <= 768_000:  # resampling a header's 1 Hz to 44.1 kHz would fill the memory
                raise ValueError(f"{name}: sample rate {rate} Hz is outside 1,000 to 768,000 Hz")
            wanted = file.frames if seconds is None else min(file.frames, round(seconds * rate))
            # in blocks: a broken header may claim more frames than memory has bytes
            blocks, have = [], 0
            while have < wanted:
                block = file.read(min(wanted - have, 1 << 18), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block)
                have += len(block)
    except (soundfile.LibsndfileError, TypeError, OSError) as error:
        raise OSError(f"{name}: {_reason(name, error)}") from error
    if have < wanted * share or _cut_short(log):
        raise ValueError(f"{name}: truncated: the header promises more than the file holds")
    if not have:
        raise ValueError(f"{name}: empty: no samples")
    x = torch.from_numpy(np.concatenate(blocks))  # (T, channels)
    if not x.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinite samples")
    mono = x.mean(1)
    if x.shape[1] > 1:
        peaks = x.abs().amax(0)
        if mono.abs().max() < 0.1 * peaks.max():
            mono = x[:, peaks.argmax()].clone()
    return mono, rate


def read(path: str | os.PathLike, rate: int = RATE, seconds: float | None = None) -> tuple[Tensor, int]:
    """Reads a file as `decode` does and resamples it.

    Returns:
        waveform (T,), mono float32 at `rate`, and the file's own sample rate in Hz

    Raises:
        OSError, ValueError: as `decode`
    """
    x, source = decode(path, seconds)
    return resample(x, source, rate), source


def write(path: str | os.PathLike, x: Tensor, rate: int = RATE) -> None:
    """Writes a waveform as a 24-bit WAV file, at the level that it has; nothing is normalised.

    The file appears whole or not at all; missing folders are made.

    Args:
        path: the file
        x: waveform, (T,) or (channels, T); what exceeds full scale is clamped
        rate: sample rate, Hz

    Raises:
        ValueError: if x has another shape, or holds NaN or infinities
        OSError: if the file cannot be written
    """
    if x.ndim not in (1, 2):
        raise ValueError(f"{path}: a waveform is (T,) or (channels, T), not {tuple(x.shape)}")
    x = x.detach().to("cpu", torch.float64)
    if not x.isfinite().all():
        raise ValueError(f"{path}: not written: the waveform holds NaN or infinite samples")
    full = 1.0 - 2.0**-23  # the largest positive sample of 24 bits; above it libsndfile may wrap
    frames = x.clamp(-1.0, full).movedim(-1, 0)
    with atomic_write(path) as temporary:
        try:
            soundfile.write(os.fsencode(temporary), frames.numpy(), rate, format="WAV", subtype="PCM_24")
        except soundfile.LibsndfileError as error:
            raise OSError(f"{path}: cannot be written: {error.error_string}") from error


def _reason(name: str, error: Exception) -> str:
    if os.path.islink(name) and not os.path.exists(name):
        return "dangling link"
    if not os.path.exists(name):
        return "no such file"
    if os.path.isdir(name):
        return "a folder, not a file"
    if not os.access(name, os.R_OK):
        return "no permission to read it"
    if os.path.getsize(name) == 0:
        return "empty: no bytes"
    return f"not readable as audio ({getattr(error, 'error_string', error)})".replace(" .)", ")")


def _cut_short(log: str) -> bool:
    """Whether libsndfile's log says that the chunk of samples is longer than the file.

    libsndfile reads such a file without complaint: "data : 88200 (should be 4096)". A size of 2 or 4 GiB is
    a writer to a pipe that never came back to fill it in, and a few bytes are padding: both are whole.
    """
    if "ended unexpectedly" in log:  # Ogg
        return True
    for line in log.splitlines():
        name, _, sizes = line.partition(":")
        if "(should be" in sizes and name.strip(" *").lower() in ("data", "ssnd", "data size"):
            promised, held = (int(part.strip(" )")) for part in sizes.split("(should be"))
            return held + 16 < promised < 0x7FFF_0000
    return False

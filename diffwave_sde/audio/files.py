"""Reading and writing files of sound."""

from __future__ import annotations

import io
import math
import os
import stat
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffwave_sde.atomic import atomic_write
from diffwave_sde.audio import headers
from diffwave_sde.audio.clips import RATE, resample
from diffwave_sde.names import escape

SUBTYPES = ("FLOAT", "PCM_24", "PCM_16")
WHOLE = 3600.0  # seconds: a longer file is not read whole, ten hours would take 6 GB
BLOCK = 1 << 18  # samples, of all channels together, that are read at once
ABSURD = 1e10  # a sample beyond this is damage: 32-bit integers that were written as floats end at 2.1e9


class Mixed(NamedTuple):
    """A file mixed to mono.

    waveform: (T,), float32.
    rate: Hz.
    cancelled: whether its channels cancelled, so that it is the loudest of them.
    """

    waveform: Tensor
    rate: int
    cancelled: bool


def decode(path: str | os.PathLike, seconds: float | None = None) -> tuple[Tensor, int]:
    """Reads a file as `mix` does: the waveform (T,), float32, and its rate in Hz."""
    return mix(path, seconds)[:2]


def mix(path: str | os.PathLike, seconds: float | None = None) -> Mixed:
    """Reads any file that libsndfile reads, mixed to mono, at its own rate.

    The channels are averaged; where they cancel (out of phase), the loudest one is taken instead. They are mixed as
    they are read, so that a thousand channels take the memory of one.

    Args:
        path: the file
        seconds: read no more than this from its beginning; None reads all of it, up to an hour

    Raises:
        OSError: if the file is missing, unreadable or not audio
        ValueError: if it is empty, truncated, at an impossible rate, too long to be read whole, or holds NaN,
            infinities or samples that no sound has
    """
    name, log = escape(os.fspath(path)), ""
    try:
        # bytes: a file name need not be valid text; not blocking: a pipe that nobody writes to would be waited for
        with open(os.fsencode(path), "rb", opener=_at_once) as raw:
            status = os.fstat(raw.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a file")
            size = status.st_size
            start = raw.read(1024)
            raw.seek(0)
            view = headers.finished(raw, size)
            with soundfile.SoundFile(view or os.fsencode(path)) as file:
                rate, container = file.samplerate, file.format
                # an MPEG header's frame count may be an estimate
                share = 0.95 if container in ("MP3", "MPEG") else 1.0
                if not 1_000 <= rate <= 768_000:  # resampling a header's 1 Hz to 44.1 kHz would fill the memory
                    raise ValueError(f"{name}: sample rate {rate} Hz is outside 1,000 to 768,000 Hz")
                frames = file.frames
                wanted = frames if seconds is None else min(frames, round(seconds * rate))
                mono, peaks = _mixed(file, min(wanted, math.ceil(WHOLE * rate)))
                have = len(mono)
                cancelled = bool(have) and bool(mono.abs().max() < 0.1 * peaks.max())
                if cancelled:
                    file.seek(0)
                    mono, _ = _mixed(file, have, int(peaks.argmax()))
                log = file.extra_info  # after the reading, which adds to it
    except (soundfile.LibsndfileError, TypeError, OSError) as error:
        raise OSError(f"{name}: {_reason(os.fspath(path), error)}") from error
    if have >= WHOLE * rate and have < wanted:
        raise ValueError(
            f"{name}: {wanted / rate / 3600:.1f} hours long: no more than {WHOLE / 3600:g} are read whole; cut it first"
        )
    if have < wanted * share or headers.cut_short(container, log, frames, start, size):
        raise ValueError(f"{name}: truncated: the header promises more than the file holds")
    if not have:
        raise ValueError(f"{name}: empty: no samples")
    if not peaks.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinite samples")
    if peaks.max() > ABSURD:
        raise ValueError(f"{name}: holds a sample of {float(peaks.max()):.2g}, where full scale is 1: it is damaged")
    return Mixed(mono, rate, cancelled)


def _at_once(path: bytes, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _mixed(file: soundfile.SoundFile, frames: int, channel: int | None = None) -> tuple[Tensor, Tensor]:
    """The next samples of a file, mixed to mono or of one channel, and each channel's largest magnitude.

    Returns:
        (T,), fewer than `frames` if the file ends before; (channels,), NaN where a channel holds one
    """
    blocks, peaks, have = [], torch.zeros(file.channels), 0
    # in blocks: a broken header may claim more frames than memory has bytes
    while have < frames:
        block = file.read(min(frames - have, max(BLOCK // file.channels, 1)), dtype="float32", always_2d=True)
        if not len(block):
            break
        x = torch.from_numpy(block)  # (T, channels)
        peaks = torch.maximum(peaks, x.abs().amax(0))
        blocks.append(x.mean(1) if channel is None else x[:, channel].clone())
        have += len(block)
    return torch.cat(blocks) if blocks else torch.zeros(0), peaks


def read(path: str | os.PathLike, rate: int = RATE, seconds: float | None = None) -> tuple[Tensor, int]:
    """Reads a file as `decode` does and resamples it.

    Returns:
        waveform (T,), mono float32 at `rate`, and the file's own sample rate in Hz

    Raises:
        OSError, ValueError: as `decode`
    """
    x, source = decode(path, seconds)
    return resample(x, source, rate), source


def write(
    path: str | os.PathLike, x: Tensor, rate: int = RATE, subtype: str = "FLOAT", info: Mapping[str, str] | None = None
) -> int:
    """Writes a waveform as a WAV file, at the level that it has; nothing is normalised.

    The file appears whole or not at all; missing folders are made.

    Args:
        path: the file
        x: waveform, (T,) or (channels, T)
        rate: sample rate, Hz
        subtype: FLOAT, 32-bit floats, of which none is cut; PCM_24 or PCM_16, which clip at full scale
        info: what the file says of itself, as of `encode`

    Returns:
        how many samples lie beyond full scale, above 1 or below -1: players cut them, and so has a PCM file

    Raises:
        ValueError: if x has another shape, holds NaN or infinities, or the subtype is none of these
        OSError: if the file cannot be written
    """
    try:
        data = encode(x, rate, subtype, info)
    except ValueError as error:
        raise ValueError(f"{escape(os.fspath(path))}: {error}") from None
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return int((x.detach().to("cpu", torch.float64).abs() > 1).sum())


def encode(x: Tensor, rate: int = RATE, subtype: str = "FLOAT", info: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a WAV file, as `write` writes it: the same sound is the same bytes.

    Args:
        x: waveform, (T,) or (channels, T)
        rate: sample rate, Hz
        subtype: FLOAT, PCM_24 or PCM_16
        info: texts by the names of RIFF's INFO list: INAM title, ICMT comment, ICOP licence, ISFT program

    Raises:
        ValueError: if x has another shape, holds NaN or infinities, or the subtype is none of these
    """
    if x.ndim not in (1, 2):
        raise ValueError(f"a waveform is (T,) or (channels, T), not {tuple(x.shape)}")
    if subtype not in SUBTYPES:
        raise ValueError(f"subtype must be one of {', '.join(SUBTYPES)}, not {subtype}")
    x = x.detach().to("cpu", torch.float64)
    if not x.to(torch.float32).isfinite().all():
        raise ValueError("not written: the waveform holds NaN or infinite samples")
    frames = x.movedim(-1, 0)
    if subtype == "FLOAT":
        data = _float_wav(frames.to(torch.float32).numpy(), rate)
    else:
        # clamped to the largest positive sample: above it libsndfile may wrap
        frames = frames.clamp(-1.0, 1.0 - 2.0 ** (-23 if subtype == "PCM_24" else -15))
        file = io.BytesIO()
        soundfile.write(file, frames.numpy(), rate, format="WAV", subtype=subtype)
        data = file.getvalue()
    if not info:
        return data
    # After the samples, where no reader needs to skip it; the size in the RIFF header is that of all but 8 bytes.
    data += b"\0" * (len(data) % 2) + _info_list(info)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def flac(x: Tensor, rate: int = RATE) -> bytes:
    """A waveform (T,) or (channels, T), in [-1, 1], as a FLAC file of 16 bits; what is beyond full scale is cut."""
    frames = x.detach().to("cpu", torch.float64).movedim(-1, 0).clamp(-1.0, 1.0 - 2.0**-15)
    file = io.BytesIO()
    soundfile.write(file, frames.numpy(), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _info_list(info: Mapping[str, str]) -> bytes:
    """A RIFF list of texts, each ending with a zero and on an even byte."""
    body = b"INFO"
    for name, text in info.items():
        raw = text.encode("utf-8", "replace") + b"\0"
        body += name.encode("ascii") + struct.pack("<I", len(raw)) + raw + b"\0" * (len(raw) % 2)
    return b"LIST" + struct.pack("<I", len(body)) + body


def _float_wav(frames: np.ndarray, rate: int) -> bytes:
    """Samples (T,) or (T, channels), float32, as a WAV file of 32-bit floats.

    Not by libsndfile, whose file holds the time at which it was written: the same sound is the same bytes here.
    """
    data = frames.astype("<f4").tobytes()
    channels = 1 if frames.ndim == 1 else frames.shape[1]
    # format 3, IEEE float; its chunk ends with the size of an extension, of which there is none
    form = struct.pack("<HHIIHHH", 3, channels, rate, rate * channels * 4, channels * 4, 32, 0)
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form + b"fact" + struct.pack("<II", 4, len(frames))
    if len(chunks) + 8 + len(data) >= 1 << 32:
        raise ValueError(f"a WAV file holds less than 4 GiB, not {len(data) / 2**30:.1f}")
    head = b"RIFF" + struct.pack("<I", len(chunks) + 8 + len(data))
    return head + chunks + b"data" + struct.pack("<I", len(data)) + data


def _reason(name: str, error: Exception) -> str:
    if os.path.islink(name) and not os.path.exists(name):
        return "dangling link"
    if not os.path.exists(name):
        return "no such file"
    if os.path.isdir(name):
        return "a folder, not a file"
    if not os.access(name, os.R_OK):
        return "no permission to read it"
    try:
        with open(os.fsencode(name), "rb", opener=_at_once) as file:
            start = file.read(1 << 16) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError as gone:  # it changes while it is read
        return gone.strerror or str(gone)
    if start == b"":
        return "empty: no bytes"
    if start and headers.without_length(start):
        return "its header does not say how long it is; write it anew, to a file and not to a pipe"
    why = getattr(error, "error_string", error)
    return f"not readable as audio ({why})".replace(" .)", ")") if start else str(error)

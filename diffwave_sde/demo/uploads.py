"""A file that somebody drops onto a pad, or gives as a track: as the model sees it, or why it is none, in words."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.editing.preparation import prepared
from diffwave_sde.names import printable

MOST_BYTES = 32 * 2**20
MOST_SECONDS = 60.0
MOST_BEGIN = 600.0  # s of a track at which its window may begin


def read(data: bytes, name: str, length: int, rate: int, paired: bool = False) -> Tensor:
    """The window (length,) of a file: mono, at the model's rate, from its onset on, at full level.

    Args:
        data: the bytes of the file.
        name: what it is called, for a complaint.
        length: samples of the window.
        rate: Hz of the model.
        paired: whether it is a part of a track, which is taken from its first sample at its own level.

    Raises:
        ValueError: if the file is no sound, is broken, too long, or silent; it says which, and what to do.
    """
    name = printable(name)[:80] or "the file"
    x, source = _decoded(data, name, MOST_SECONDS + 1)
    if len(x) > MOST_SECONDS * source:
        raise ValueError(
            f"{name}: longer than {MOST_SECONDS:.0f} s. A pad holds {length / rate:.2f} s: cut the sound out first."
        )
    window = prepared(x, source, length, rate, paired=paired).cut.window
    # Both: a click of one sample is gone with the trimming of its end.
    if min(float(x.abs().max()), float(window.abs().max())) < audio.SILENT:
        raise ValueError(f"{name}: holds only silence.")
    return window


def read_track(data: bytes, name: str, length: int, rate: int, begin: float = 0.0) -> Tensor:
    """The window (length,) of a track from `begin`, s, on: mono, at the model's rate, at its own level.

    Raises:
        ValueError: if the file is no sound or broken, or nothing sounds there; it says which.
    """
    name = printable(name)[:80] or "the file"
    if not 0 <= begin <= MOST_BEGIN:
        raise ValueError(f"{name}: from {begin:g} s on: choose 0 to {MOST_BEGIN:.0f}")
    x, source = _decoded(data, name, begin + length / rate + 1)
    window = prepared(x, source, length, rate, begin, paired=True).cut.window
    if float(window.abs().max()) < audio.SILENT:
        raise ValueError(f"{name}: holds only silence from {begin:g} s on, for {length / rate:.2f} s.")
    return window


def _decoded(data: bytes, name: str, seconds: float) -> tuple[Tensor, int]:
    """The first seconds of a file, mono, and its rate."""
    if len(data) > MOST_BYTES:
        raise ValueError(too_large(name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            return audio.decode(path, seconds)
        except (OSError, ValueError) as error:
            reason = str(error).replace(f"{path}: ", "")
            raise ValueError(f"{name}: {reason}. Drop a WAV, FLAC, AIFF, Ogg or MP3 file.") from None


def too_large(name: str) -> str:
    """What to say of a file of too many bytes."""
    return f"{name}: larger than {MOST_BYTES >> 20} MB. A pad holds a short sound: cut it out of the file first."

"""A file that somebody drops onto a pad: the sound as the model sees it, or why it is none, in words."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.editing.preparation import prepared
from diffwave_sde.names import printable

MOST_BYTES = 32 * 2**20
MOST_SECONDS = 60.0


def read(data: bytes, name: str, length: int, rate: int) -> Tensor:
    """The window (length,) of a file: mono, at the model's rate, from its onset on, at full level.

    Args:
        data: the bytes of the file.
        name: what it is called, for a complaint.
        length: samples of the window.
        rate: Hz of the model.

    Raises:
        ValueError: if the file is no sound, is broken, too long, or silent; it says which, and what to do.
    """
    name = printable(name)[:80] or "the file"
    if len(data) > MOST_BYTES:
        raise ValueError(too_large(name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            x, source = audio.decode(path, MOST_SECONDS + 1)
        except (OSError, ValueError) as error:
            reason = str(error).replace(f"{path}: ", "")
            raise ValueError(f"{name}: {reason}. Drop a WAV, FLAC, AIFF, Ogg or MP3 file.") from None
    if len(x) > MOST_SECONDS * source:
        raise ValueError(
            f"{name}: longer than {MOST_SECONDS:.0f} s. A pad holds {length / rate:.2f} s: cut the sound out first."
        )
    window = prepared(x, source, length, rate).cut.window
    # Both: a click of one sample is gone with the trimming of its end.
    if min(float(x.abs().max()), float(window.abs().max())) < audio.SILENT:
        raise ValueError(f"{name}: holds only silence.")
    return window


def too_large(name: str) -> str:
    """What to say of a file of too many bytes."""
    return f"{name}: larger than {MOST_BYTES >> 20} MB. A pad holds a short sound: cut it out of the file first."

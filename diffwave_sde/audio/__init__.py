"""Waveforms. A sound here is mono, 44.1 kHz, float32 in [-1, 1].

companding      mu-law, as a network may see a waveform
files           reading and writing
clips           resampling, onset, and cutting a recording to one window
"""

from diffwave_sde.audio.clips import (
    DECLICK,
    FADE,
    LENGTH,
    PEAK,
    PRE_ROLL,
    RATE,
    SILENT,
    TAIL,
    cut,
    fade_out,
    from_int16,
    gain_of,
    normalise,
    offset,
    onset,
    resample,
    trim,
    window,
)
from diffwave_sde.audio.companding import compress, expand
from diffwave_sde.audio.files import Mixed, decode, encode, flac, mix, read, write

__all__ = [
    "DECLICK",
    "FADE",
    "LENGTH",
    "PEAK",
    "PRE_ROLL",
    "RATE",
    "SILENT",
    "TAIL",
    "Mixed",
    "compress",
    "cut",
    "decode",
    "encode",
    "expand",
    "fade_out",
    "flac",
    "from_int16",
    "gain_of",
    "mix",
    "normalise",
    "offset",
    "onset",
    "read",
    "resample",
    "trim",
    "window",
    "write",
]  # fmt: skip

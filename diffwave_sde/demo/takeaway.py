"""The pads as a kit: WAV files on General MIDI keys with presets for SFZ players, Hydrogen and Decent Sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.kits import Instrument, Kit, decent, hits, hydrogen, keys, layered, sfz
from diffwave_sde.kits.folder import SAMPLES, packed
from diffwave_sde.kits.making import PROGRAM, titles
from diffwave_sde.kits.mastering import Mastering, amplified
from diffwave_sde.names import printable


@dataclass(frozen=True)
class Pad:
    """A sound to take away.

    label: its class, or mix of classes.
    sound: (T,) at the model's rate.
    about: where it comes from, a line for its file.
    """

    label: str
    sound: Tensor
    about: str = ""


def measures(x: Tensor, rate: int) -> tuple[float, float]:
    """Decay, s, and brightness, Hz, of a sound (T,): what its key in a kit follows from, whatever the kit's rate."""
    x = Mastering().prepared(x, rate)
    return hits.decay(x, audio.RATE), hits.brightness(x, audio.RATE)


def kit_zip(
    pads: Sequence[Pad], rate: int, name: str = "kit", out_rate: int = audio.RATE, subtype: str = "PCM_24",
    licence: str = "not stated", model: str = "",
) -> bytes:  # fmt: skip
    """A zip of a kit: the same pads are the same bytes. One gain for all keeps their balance (`kits.mastering`).

    Args:
        pads: at least one.
        rate: Hz of the sounds.
        name: of the kit; what no file can be called by becomes a space.
        out_rate: Hz of the WAV files, 44,100 or 48,000.
        subtype: of the WAV files, PCM_24, PCM_16 or FLOAT.
        licence, model: for the files to tell.

    Raises:
        ValueError: if there is no pad, or a rate that samplers do not take.
    """
    if not pads:
        raise ValueError("a kit has at least one sound: put some on the pads first")
    if out_rate not in (44_100, 48_000):
        raise ValueError(f"{out_rate} Hz: choose 44100 or 48000")
    name = titles([name])[0]
    finish = Mastering(rate=out_rate)
    sounds = [finish.prepared(pad.sound, rate) for pad in pads]
    gains = finish.gains([[x] for x in sounds])
    measured = [keys.Hit(pad.label, *measures(pad.sound, rate)) for pad in pads]
    classes = list(dict.fromkeys(pad.label for pad in pads))
    shown = dict(zip(classes, titles(classes), strict=True))
    instruments, wavs, count = [], {}, dict.fromkeys(classes, 0)
    for pad, x, gain, key in zip(pads, sounds, gains, keys.assign(measured), strict=True):
        count[pad.label] += 1
        title = f"{shown[pad.label]} {count[pad.label]}"
        file = f"{title}.wav"
        instruments.append(Instrument(title, pad.label, key.note, layered([file]), key.part, key.choke))
        info = {
            "INAM": title, "IPRD": name, "IGNR": printable(pad.label), "ICMT": printable(pad.about)[:400],
            "ICOP": licence, "ISFT": PROGRAM,
        }  # fmt: skip
        wavs[file] = audio.encode(amplified(x, gain), out_rate, subtype, info)
    kit = Kit(name, tuple(instruments), f"made by {PROGRAM}" + (f", model {model}" if model else ""), licence)
    contents = {SAMPLES + file: data for file, data in wavs.items()}
    contents[name + sfz.SUFFIX] = sfz.text(kit, SAMPLES).encode()
    contents[name + decent.SUFFIX] = decent.xml(kit, SAMPLES)
    contents[name + hydrogen.SUFFIX] = hydrogen.archive(kit, wavs)
    return packed(name, contents)

"""SFZ: a text that any of many samplers reads (sfizz, sforzando, ...).

Source: sfzformat.com, the opcodes of SFZ 1 and, for the choke groups, off_by.
"""

from __future__ import annotations

from diffwave_sde.kits.kit import Instrument, Kit, Sample
from diffwave_sde.names import printable

SUFFIX = ".sfz"


def text(kit: Kit, folder: str = "") -> str:
    """The SFZ file of a kit.

    Args:
        kit: the kit.
        folder: of the WAV files, relative to the SFZ file, with "/" at its end; "" for its own.

    Raises:
        ValueError: if the name of a file holds what SFZ reads as something else.
    """
    lines = [f"// {printable(line)}" for line in (kit.name, kit.about, f"licence: {kit.licence}") if line]
    if folder:
        lines += ["", "<control>", f"default_path={_path(folder)}"]
    # A drum rings on when its key is let go, and is not moved in pitch.
    lines += ["", "<global>", "loop_mode=one_shot", "pitch_keytrack=0"]
    for instrument in kit.instruments:
        lines += ["", *_group(instrument)]
        lines += [_region(instrument, sample) for sample in instrument.samples]
    return "\n".join(lines) + "\n"


def _group(instrument: Instrument) -> list[str]:
    lines = ["<group>", f"group_label={printable(instrument.title)}", f"key={instrument.key}"]
    if instrument.choke is not None:
        # In the group, and silenced by any hit of it.
        lines.append(f"group={instrument.choke} off_by={instrument.choke} off_mode=fast")
    if instrument.turns > 1:
        lines.append(f"seq_length={instrument.turns}")
    return lines


def _region(instrument: Instrument, sample: Sample) -> str:
    opcodes = [f"sample={_path(sample.file)}"]
    if len(instrument.layers) > 1:
        opcodes.append(f"lovel={sample.low} hivel={sample.high}")
    if instrument.turns > 1:
        opcodes.append(f"seq_position={sample.turn}")
    # The name stands last: it reaches to the end of its line.
    return " ".join(["<region>", *reversed(opcodes)])


def _path(name: str) -> str:
    """A path, forward slashes on any system."""
    # A $ begins a variable, // a comment, < a header, and = with a word before it the next opcode.
    if any(mark in name for mark in ("$", "//", "<", ">", "=", "\\", "\n")):
        raise ValueError(
            f"{printable(name)}: SFZ cannot hold $, <, >, =, \\ or // in a file's name: choose another name"
        )
    return name

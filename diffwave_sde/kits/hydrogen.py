"""Hydrogen's drum kits: `.h2drumkit`, an archive of drumkit.xml and its samples.

Source: Hydrogen 1.2, data/xsd/drumkit.xsd; the archive as its own drumkits are.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

from diffwave_sde.kits.kit import Instrument, Kit
from diffwave_sde.names import printable

SUFFIX = ".h2drumkit"
MOST = 16
"""Samples of an instrument that Hydrogen takes."""

_NAMESPACE = "http://www.hydrogen-music.org/drumkit"


def archive(kit: Kit, sounds: Mapping[str, bytes]) -> bytes:
    """The `.h2drumkit` of a kit: the same kit is the same bytes.

    Args:
        kit: the kit.
        sounds: the WAV files by name.

    Raises:
        ValueError: if an instrument has more samples than Hydrogen takes.
    """
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in {"drumkit.xml": xml(kit), **{name: sounds[name] for name in kit.files}}.items():
            entry = tarfile.TarInfo(f"{kit.name}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def xml(kit: Kit) -> bytes:
    """The drumkit.xml of a kit, whose samples lie beside it."""
    root = ElementTree.Element("drumkit_info", {"xmlns": _NAMESPACE})
    _fill(
        root,
        {
            "name": kit.name,
            "author": "diffwave-sde",
            "info": kit.about,
            "license": kit.licence,
            "image": "",
            "imageLicense": "undefined license",
        },
    )
    component = ElementTree.SubElement(ElementTree.SubElement(root, "componentList"), "drumkitComponent")
    _fill(component, {"id": 0, "name": "Main", "volume": 1})
    instruments = ElementTree.SubElement(root, "instrumentList")
    for number, instrument in enumerate(kit.instruments):
        _add(instruments, number, instrument)
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, "UTF-8", xml_declaration=True) + b"\n"


def _add(parent: ElementTree.Element, number: int, instrument: Instrument) -> None:
    if len(instrument.samples) > MOST:
        raise ValueError(
            f"{instrument.name}: {len(instrument.samples)} samples are more than the {MOST} that Hydrogen takes: "
            "choose fewer --layers or --robins"
        )
    node = ElementTree.SubElement(parent, "instrument")
    _fill(
        node,
        {
            "id": number,
            "name": instrument.title,
            "volume": 1,
            "isMuted": "false",
            "isSoloed": "false",
            "pan": 0,
            "pitchOffset": 0,
            "randomPitchFactor": 0,
            "gain": 1,
            "applyVelocity": "true",
            "filterActive": "false",
            "filterCutoff": 1,
            "filterResonance": 0,
            "Attack": 0,
            "Decay": 0,
            "Sustain": 1,
            "Release": 1000,
            "muteGroup": -1 if instrument.choke is None else instrument.choke,
            "midiOutChannel": -1,
            "midiOutNote": instrument.key,
            "isStopNote": "false",
            "sampleSelectionAlgo": "ROUND_ROBIN" if instrument.turns > 1 else "VELOCITY",
            "isHihat": -1,
            "lower_cc": 0,
            "higher_cc": 127,
            **{f"FX{i}Level": 0 for i in range(1, 5)},
        },
    )
    component = ElementTree.SubElement(node, "instrumentComponent")
    _fill(component, {"component_id": 0, "gain": 1})
    for sample in instrument.samples:
        # Hydrogen's velocities are shares, and both ends count: borders between two of MIDI's belong to one layer.
        low = 0.0 if sample.low == 1 else (sample.low - 0.5) / 127
        high = 1.0 if sample.high == 127 else (sample.high + 0.5) / 127
        layer = ElementTree.SubElement(component, "layer")
        _fill(layer, {"filename": sample.file, "min": f"{low:.6g}", "max": f"{high:.6g}", "gain": 1, "pitch": 0})


def _fill(node: ElementTree.Element, facts: Mapping[str, object]) -> None:
    for name, value in facts.items():
        ElementTree.SubElement(node, name).text = printable(str(value))

"""Decent Sampler's presets: `.dspreset`, an XML file beside its samples; `.dslibrary` is a zip of both.

Source: DecentSampler developers' guide, "The <groups> element", "How to do voice-muting for drums".
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from diffwave_sde.kits.kit import Instrument, Kit
from diffwave_sde.names import printable

SUFFIX, LIBRARY = ".dspreset", ".dslibrary"


def xml(kit: Kit, folder: str = "") -> bytes:
    """The preset of a kit.

    Args:
        kit: the kit.
        folder: of the WAV files, relative to the preset, with "/" at its end; "" for its own.
    """
    root = ElementTree.Element("DecentSampler", {"minVersion": "1.0.0"})
    about = "; ".join(part for part in (kit.name, kit.about, f"licence: {kit.licence}") if part)
    root.append(ElementTree.Comment(f" {_comment(about)} "))
    # Without an envelope a drum rings on when its key is let go.
    groups = ElementTree.SubElement(root, "groups", {"ampEnvEnabled": "false"})
    for instrument in kit.instruments:
        groups.append(ElementTree.Comment(f" {_comment(instrument.title)} "))
        _add(groups, instrument, folder)
    ElementTree.indent(root, "  ")
    return ElementTree.tostring(root, "UTF-8", xml_declaration=True) + b"\n"


def _add(parent: ElementTree.Element, instrument: Instrument, folder: str) -> None:
    facts = {"ampVelTrack": "1", "pitchKeyTrack": "0"}
    if instrument.choke is not None:
        tag = f"choke{instrument.choke}"
        facts |= {"tags": tag, "silencedByTags": tag, "silencingMode": "fast"}
    if instrument.turns > 1:
        facts |= {"seqMode": "round_robin", "seqLength": str(instrument.turns)}
    group = ElementTree.SubElement(parent, "group", facts)
    key = str(instrument.key)
    for sample in instrument.samples:
        facts = {"path": printable(folder + sample.file), "rootNote": key, "loNote": key, "hiNote": key}
        if len(instrument.layers) > 1:
            facts |= {"loVel": str(sample.low), "hiVel": str(sample.high)}
        if instrument.turns > 1:
            facts["seqPosition"] = str(sample.turn)
        ElementTree.SubElement(group, "sample", facts)


def _comment(text: str) -> str:
    """Text as a comment of XML, which takes no two hyphens in a row."""
    return printable(text).replace("--", "- -").rstrip("-")

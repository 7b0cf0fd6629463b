"""Kits as other programs read them: each key and velocity plays the sound that it should, by readers not of `kits`."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import soundfile
import torch

from diffwave_sde import audio
from diffwave_sde.data import kits as readers
from diffwave_sde.kits import Instrument, Kit, Sample, decent, hydrogen, layered, sfz

RATE = 44_100
NAMES = ("Kick 1", "Cymbal 1", "Cymbal 2", "Conga 7")


def tone(hz: float) -> torch.Tensor:
    t = torch.arange(8000) / RATE
    return 0.5 * torch.sin(2 * torch.pi * hz * t) * torch.exp(-5 * t)


def pitch(x) -> float:
    """The frequency of the loudest bin, Hz."""
    spectrum = torch.fft.rfft(torch.as_tensor(x).float(), 1 << 14).abs()
    return float(spectrum.argmax()) * RATE / (1 << 14)


KICKS = [f"Kick 1 v{v} r{r}.wav" for v in (1, 2) for r in (1, 2)]
KIT = Kit(
    "tiny",
    (
        Instrument("Kick 1", "kick", 36, layered(KICKS, 2)),
        Instrument("Cymbal 1", "cymbal", 42, layered(["Cymbal 1.wav"]), "closed hat", 1),
        Instrument("Cymbal 2", "cymbal", 46, layered(["Cymbal 2.wav"]), "open hat", 1),
        Instrument("Conga 7", "conga & co", 88, layered(["Conga 7.wav"])),
    ),
    "made by a test",
    "CC0-1.0",
)
HZ = {file: 300.0 * (i + 1) for i, file in enumerate(KIT.files)}
CLASS = {"Kick": "kick", "Cymbal": "cymbal", "Conga": "percussion"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The kit in all formats; each of its files is a tone of its own."""
    home = tmp_path_factory.mktemp("kit")
    wavs = {file: audio.encode(tone(hz), RATE, "PCM_24") for file, hz in HZ.items()}
    (home / "Samples").mkdir()
    for file, data in wavs.items():
        (home / "Samples" / file).write_bytes(data)
    (home / "tiny.sfz").write_text(sfz.text(KIT, "Samples/"), encoding="utf-8")
    (home / "tiny.h2drumkit").write_bytes(hydrogen.archive(KIT, wavs))
    (home / "tiny.dspreset").write_bytes(decent.xml(KIT, "Samples/"))
    return home


def test_the_readers_of_data_sets_find_every_file_with_its_class(home, tmp_path):
    for folder, found in (
        (home, readers.sfz(home / "tiny.sfz")),
        (unpacked := readers.unpack(home / "tiny.h2drumkit", tmp_path / "h2"), readers.hydrogen(unpacked)),
    ):
        assert [Path(one.file).name for one in found] == KIT.files
        for one in found:
            assert one.label == CLASS[Path(one.file).name.split()[0]]
            assert pitch(audio.decode(folder / one.file)[0]) == pytest.approx(HZ[Path(one.file).name], abs=3)
    assert unpacked.name == "tiny"


def test_sfizz_plays_layers_turns_and_chokes(home):
    pysfizz = pytest.importorskip("pysfizz")
    synth = pysfizz.Synth(RATE, 256)
    assert synth.load_sfz_file(home / "tiny.sfz")
    assert synth.playable_keys == [36, 42, 46, 88]
    played = [pitch(synth.render_note(36, velocity, 0.02, 0.15).mean(0)) for velocity in (1, 64, 64, 65, 127, 65)]
    assert played[:3] == pytest.approx([300, 600, 300], abs=3)
    assert sorted(played[3:5]) == pytest.approx([900, 1200], abs=3)  # whose turn it is depends on all hits of the key
    assert played[5] == played[3]
    long = synth.render_note(46, 127, 0.01, 0.15).mean(0)  # which rings on when the key is let go
    assert abs(long[4410:5000]).max() > 0.5 * abs(long[:600]).max()

    def block() -> torch.Tensor:
        return torch.cat([torch.as_tensor(synth._synth.render_block()[0]) for _ in range(8)])

    for second, rings in ((42, False), (88, True)):
        synth._synth.all_sound_off()
        synth._synth.note_on(0, 46, 127)
        block()
        synth._synth.note_on(0, second, 127)
        block()
        spectrum = torch.fft.rfft(block(), 1 << 14).abs()
        left, new = (float(spectrum[round(hz * (1 << 14) / RATE)]) for hz in (HZ["Cymbal 2.wav"], 300.0))
        assert (left > 10 * new) == rings


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("h2cli") is None, reason="needs Debian's package hydrogen")
def test_hydrogen_finds_the_kit_valid_and_plays_layers_turns_and_chokes(home, tmp_path):
    run = {"env": {"HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"}, "capture_output": True, "text": True}
    said = subprocess.run(["h2cli", "-c", home / "tiny.h2drumkit"], **run, timeout=60)
    assert "is valid" in said.stdout
    subprocess.run(["h2cli", "-i", home / "tiny.h2drumkit"], **run, timeout=60)
    assert (tmp_path / ".hydrogen" / "data" / "drumkits" / "tiny" / "drumkit.xml").is_file()
    # 48 ticks a beat; the closed hat follows the open one by a sixteenth.
    notes = ((0, 0, 0.2), (24, 0, 0.2), (48, 0, 0.8), (72, 0, 0.8), (96, 2, 1.0), (108, 1, 1.0))
    (tmp_path / "song.h2song").write_text(song(notes), encoding="utf-8")
    subprocess.run(
        ["h2cli", "-d", "null", "-s", tmp_path / "song.h2song", "-o", tmp_path / "song.wav"], **run, timeout=60
    )
    sound, rate = soundfile.read(tmp_path / "song.wav", dtype="float32")
    assert rate == RATE
    step = rate * 60 / 120 / 48
    played = [pitch(sound[round(at * step) + 400 :][:4000].mean(1)) for at, _, _ in notes]
    assert [sorted(played[:2]), sorted(played[2:4])] == [
        pytest.approx([300, 600], abs=12),
        pytest.approx([900, 1200], abs=12),
    ]
    assert played[4:] == pytest.approx([HZ["Cymbal 2.wav"], HZ["Cymbal 1.wav"]], abs=12)


def song(notes) -> str:
    """A song of one bar at 120 beats a minute, with the instruments of the kit."""
    instruments = ElementTree.fromstring(re.sub(rb' xmlns="[^"]+"', b"", hydrogen.xml(KIT))).find("instrumentList")
    for one in instruments:
        for name, value in (("drumkit", "tiny"), ("drumkitLookup", "2")):
            node = ElementTree.Element(name)
            node.text = value
            one.insert(2, node)
    listed = "".join(
        f"<note><position>{at}</position><leadlag>0</leadlag><velocity>{velocity}</velocity><pan>0</pan><pitch>0</pitch>"
        f"<probability>1</probability><key>C0</key><length>-1</length><instrument>{number}</instrument>"
        "<note_off>false</note_off></note>"
        for at, number, velocity in notes
    )
    return (
        "<?xml version='1.0' encoding='UTF-8'?>\n<song><version>1.2.0</version><bpm>120</bpm><volume>1</volume>"
        "<metronomeVolume>0.5</metronomeVolume><name>x</name><author>x</author><notes/><license/>"
        "<loopEnabled>false</loopEnabled><patternModeMode>true</patternModeMode><mode>song</mode>"
        "<humanize_time>0</humanize_time><humanize_velocity>0</humanize_velocity><swing_factor>0</swing_factor>"
        "<componentList><drumkitComponent><id>0</id><name>Main</name><volume>1</volume></drumkitComponent>"
        f"</componentList>{ElementTree.tostring(instruments, 'unicode')}"
        "<patternList><pattern><name>P</name><category/><size>192</size><denominator>4</denominator><info/>"
        f"<noteList>{listed}</noteList></pattern></patternList>"
        "<patternSequence><group><patternID>P</patternID></group></patternSequence></song>"
    )


def test_a_hydrogen_kit_has_its_namespace_and_ids_of_its_own_and_plays_each_velocity():
    space = "{http://www.hydrogen-music.org/drumkit}"
    root = ElementTree.fromstring(hydrogen.xml(KIT))
    assert root.tag == f"{space}drumkit_info"
    found = root.findall(f"{space}instrumentList/{space}instrument")
    assert [one.findtext(f"{space}id") for one in found] == ["0", "1", "2", "3"]
    assert [one.findtext(f"{space}midiOutNote") for one in found] == ["36", "42", "46", "88"]
    assert [one.findtext(f"{space}muteGroup") for one in found] == ["-1", "1", "1", "-1"]
    assert [one.findtext(f"{space}sampleSelectionAlgo") for one in found] == ["ROUND_ROBIN"] + 3 * ["VELOCITY"]
    for one, instrument in zip(found, KIT.instruments, strict=True):
        layers = [
            [layer.findtext(space + name) for name in ("filename", "min", "max")] for layer in one.iter(f"{space}layer")
        ]
        for velocity in range(1, 128):
            played = [file for file, low, high in layers if float(low) <= velocity / 127 <= float(high)]
            assert played == [sample.file for sample in instrument.samples if sample.low <= velocity <= sample.high]


# DecentSampler developers' guide, "The <groups> element": what stands on each element here.
GUIDE = {
    "DecentSampler": {"minVersion"},
    "groups": {"ampEnvEnabled"},
    "group": {"ampVelTrack", "pitchKeyTrack", "tags", "silencedByTags", "silencingMode", "seqMode", "seqLength"},
    "sample": {"path", "rootNote", "loNote", "hiNote", "loVel", "hiVel", "seqPosition"},
}


def test_a_decent_sampler_preset_holds_what_its_guide_knows_and_plays_each_velocity_once(home):
    root = ElementTree.parse(home / "tiny.dspreset").getroot()
    assert [node.tag for node in root] == ["groups"]
    for node in root.iter():
        assert set(node.attrib) <= GUIDE[node.tag]
    groups = root.findall("groups/group")
    assert [group.get("silencedByTags") for group in groups] == [None, "choke1", "choke1", None]
    assert all(group.get("tags") == group.get("silencedByTags") for group in groups)
    assert groups[0].get("seqMode") == "round_robin"
    for group, instrument in zip(groups, KIT.instruments, strict=True):
        for velocity in range(1, 128):
            turns = [
                int(sample.get("seqPosition", 1))
                for sample in group
                if int(sample.get("loVel", 0)) <= velocity <= int(sample.get("hiVel", 127))
            ]
            assert turns == list(range(1, int(group.get("seqLength", 1)) + 1))
        for sample in group:
            assert (home / sample.get("path")).is_file()
            assert {sample.get(name) for name in ("rootNote", "loNote", "hiNote")} == {str(instrument.key)}


def test_names_that_are_none_in_xml_or_sfz_are_spelt_or_refused():
    name = 'a & b <"c"> -- \x01é'
    kit = Kit(name, (Instrument("x & y", "k", 1, layered(["x & y.wav"])),), name, name)
    for text in (hydrogen.xml(kit), decent.xml(kit)):
        assert "x & y" in "".join(ElementTree.fromstring(text).itertext()) + str(
            [node.attrib for node in ElementTree.fromstring(text).iter()]
        )
    for bad in ("$a.wav", "a//b.wav", "a=b.wav", "<a>.wav", "a\\b.wav"):
        with pytest.raises(ValueError, match="choose another"):
            sfz.text(Kit("x", (Instrument("x", "k", 1, layered([bad])),)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Instrument("x", "k", 128, layered(["a.wav"])), "key 128"),
        (lambda: Instrument("x", "k", 1, ()), "at least one"),
        (lambda: Instrument("x", "k", 1, (Sample("a.wav", 1, 60), Sample("b.wav", 62, 127))), "share the velocities"),
        (lambda: Instrument("x", "k", 1, (Sample("a.wav", turn=2),)), "same turns"),
        (lambda: layered(["a.wav"] * 5, 2), "cannot be shared out"),
        (lambda: Kit("x", (KIT.instruments[0], KIT.instruments[0])), "36 stands twice among the keys"),
    ],
)
def test_a_kit_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()


@pytest.mark.parametrize(("layers", "turns"), [(1, 1), (3, 2), (127, 1)])
def test_layers_share_all_velocities_equally(layers, turns):
    samples = layered([f"{i}.wav" for i in range(layers * turns)], layers)
    widths = [sample.high - sample.low + 1 for sample in samples]
    assert sum(widths) == 127 * turns
    assert max(widths) - min(widths) <= 1


def test_hydrogen_takes_sixteen_samples_of_an_instrument():
    files = [f"{i}.wav" for i in range(17)]
    with pytest.raises(ValueError, match="17 samples are more than the 16"):
        hydrogen.xml(Kit("x", (Instrument("x", "k", 1, layered(files, 17)),)))

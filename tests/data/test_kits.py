"""SoundFonts, SFZ files and Hydrogen kits: their samples, as their WAV files are, with the classes that they tell."""

import io
import struct
import tarfile

import numpy as np
import pytest
import soundfile
import torch

from diffwave_sde import audio
from diffwave_sde.data import kits
from diffwave_sde.data.items import pack
from diffwave_sde.data.module import AudioDataModule
from diffwave_sde.data.soundfont import samples

RATE, LENGTH = 44_100, 3000
KEYS = {36: "kick", 38: "snare", 46: "cymbal"}


def hit(hz: float) -> np.ndarray:
    """A decaying tone of 16 bits."""
    t = np.arange(4000) / RATE
    return np.rint(20_000 * np.sin(2 * np.pi * hz * t) * np.exp(-60 * t)).astype("<i2")


SOUNDS = {key: hit(100.0 * (k + 1)) for k, key in enumerate(KEYS)}


def chunk(name: str, data: bytes, pad: bool = True) -> bytes:
    return name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (pad and len(data) % 2)


def soundfont(bank: int = 128, compressed: bool = False, pad: bool = True) -> bytes:
    """A SoundFont of one kit "Tiny", an instrument of three zones by key; written by the specification, section 7."""
    blobs = []
    for x in SOUNDS.values():
        if compressed:
            ogg = io.BytesIO()
            soundfile.write(ogg, x.astype(np.float32) / 32768, RATE, format="OGG", subtype="VORBIS")
            blobs.append(ogg.getvalue())
        else:
            blobs.append(x.tobytes() + b"\0" * 92)
    unit = 1 if compressed else 2
    starts = np.cumsum([0, *(len(b) // unit for b in blobs)])[:-1]
    ends = [
        s + (len(b) // unit if compressed else len(x)) for s, b, x in zip(starts, blobs, SOUNDS.values(), strict=True)
    ]
    n = len(KEYS)
    heads = b"".join(
        struct.pack("<20sIIIIIBbHH", f"hit{k}".encode(), s, e, s, e, RATE, 60, 0, 0, 17 if compressed else 1)
        for k, (s, e) in enumerate(zip(starts, ends, strict=True))
    )
    generators = b"".join(struct.pack("<HHHH", 43, key | key << 8, 53, k) for k, key in enumerate(KEYS))
    tables = {
        "phdr": struct.pack("<20sHHHIII", b"Tiny", 0, bank, 0, *[0] * 3)
        + struct.pack("<20sHHHIII", b"EOP", 0, 0, 1, *[0] * 3),
        "pbag": struct.pack("<HHHH", 0, 0, 1, 0),
        "pmod": bytes(10),
        "pgen": struct.pack("<HHHH", 41, 0, 0, 0),
        "inst": struct.pack("<20sH", b"tiny", 0) + struct.pack("<20sH", b"EOI", n),
        "ibag": b"".join(struct.pack("<HH", 2 * k, 0) for k in range(n + 1)),
        "imod": bytes(10),
        "igen": generators + bytes(4),
        "shdr": heads + struct.pack("<20sIIIIIBbHH", b"EOS", *[0] * 9),
    }  # fmt: skip
    info = chunk("LIST", b"INFO" + chunk("ICOP", b"CC0, nobody\0"))
    data = chunk("LIST", b"sdta" + chunk("smpl", b"".join(blobs), pad), pad)
    body = b"sfbk" + info + data + chunk("LIST", b"pdta" + b"".join(chunk(k, v) for k, v in tables.items()))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def windows(items) -> dict[str, np.ndarray]:
    return {item.label: item.load(LENGTH).window for item in items}


def expected() -> dict[str, np.ndarray]:
    """The windows that WAV files of the same sounds have."""
    return {
        KEYS[key]: pack(audio.window(torch.from_numpy(x.astype(np.float32) / 32768), LENGTH))
        for key, x in SOUNDS.items()
    }


def test_a_soundfonts_drums_are_those_of_its_kits_by_key(tmp_path):
    (tmp_path / "tiny.sf2").write_bytes(soundfont())
    items = samples(tmp_path / "tiny.sf2")
    assert [(i.file, i.label, i.group, i.licence) for i in items] == [
        (f"Tiny/{key:03d}-hit{k}", label, "Tiny", "CC0, nobody") for k, (key, label) in enumerate(KEYS.items())
    ]
    for label, window in windows(items).items():
        assert np.array_equal(window, expected()[label])


@pytest.mark.parametrize("pad", [True, False], ids=["padded", "unpadded"])
def test_an_sf3_is_read_whether_its_chunks_are_padded_or_not(tmp_path, pad):
    (tmp_path / "tiny.sf3").write_bytes(soundfont(compressed=True, pad=pad))
    for label, window in windows(samples(tmp_path / "tiny.sf3")).items():
        error = window.astype(float) - expected()[label]
        assert np.abs(error).mean() < 0.05 * np.abs(window.astype(float)).mean()  # Vorbis loses something


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (soundfont()[:-200], "damaged SoundFont .cut short"),
        (b"RIFF" + soundfont()[4:8] + b"WAVE" + soundfont()[12:], "not a SoundFont"),
        (soundfont(bank=0), "no drum kit"),
        (b"", "not a SoundFont"),
    ],
)
def test_what_is_no_soundfont_of_drums_is_told_by_name(tmp_path, data, message):
    (tmp_path / "bad.sf2").write_bytes(data)
    with pytest.raises(ValueError, match=rf"bad\.sf2: .*{message}"):
        samples(tmp_path / "bad.sf2")


@pytest.fixture
def wavs(tmp_path):
    """A folder with the three sounds under names that tell nothing, and one whose name does."""
    for k, x in enumerate(SOUNDS.values()):
        soundfile.write(tmp_path / f"hit {k}.wav", x, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "big tom.wav", SOUNDS[36], RATE, subtype="PCM_16")
    return tmp_path


def test_an_sfz_tells_files_and_classes(wavs):
    (wavs / "more.txt").write_text("<region> sample=big tom.wav key=36 // its own name wins\n")
    (wavs / "kit.sfz").write_text(
        "#define $KICK 36\n<control> default_path=./\n<global> ampeg_release=1\n"
        "<group> key=$KICK\n<region> sample=hit 0.wav lovel=0\n<region> sample=hit 0.wav lovel=64\n"
        "<group> lokey=d2 hikey=d2 <region> sample=hit 1.wav\n<region> key=46 sample=hit 2.wav volume=3\n"
        '<region> sample=*sine key=40\n/* <region> sample=gone.wav */\n#include "more.txt"\n'
    )
    found = kits.sfz(wavs / "kit.sfz")
    assert [tuple(one) for one in found] == [
        ("hit 0.wav", "kick"), ("hit 1.wav", "snare"), ("hit 2.wav", "cymbal"), ("big tom.wav", "tom")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<region> sample=../up.wav", "outside of its folder"),
        ('#include "../up.sfz"', "outside of its folder"),
        ('#include "kit.sfz"', "includes itself"),
        ("<group> key=36", "plays no samples"),
    ],
)
def test_an_sfz_that_leaves_its_folder_or_plays_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "kit.sfz").write_text(text)
    with pytest.raises(ValueError, match=message):
        kits.sfz(tmp_path / "kit.sfz")


DRUMKIT = (
    '<?xml version="1.0"?><drumkit_info xmlns="http://www.hydrogen-music.org/drumkit"><name>Tiny</name>'
    "<instrumentList><instrument><name>Bass Drum</name><layer><filename>hit 0.wav</filename></layer></instrument>"
    "<instrument><name>No. 2</name><midiOutNote>38</midiOutNote><instrumentComponent><layer>"
    "<filename>hit 1.wav</filename></layer></instrumentComponent></instrument>"
    "<instrument><name>Ride</name><layer><filename>gone.wav</filename></layer></instrument>"
    "</instrumentList></drumkit_info>"
)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "h2drumkit"])
def test_a_hydrogen_kit_is_a_dataset_packed_or_not(wavs, packed, tmp_path):
    (wavs / "drumkit.xml").write_text(DRUMKIT)
    dataset = wavs
    if packed:
        dataset = tmp_path / "tiny.h2drumkit"
        with tarfile.open(dataset, "w:gz") as tar:
            for name in ("drumkit.xml", "hit 0.wav", "hit 1.wav"):
                tar.add(wavs / name, f"Tiny/{name}")
    data = AudioDataModule(str(dataset), str(tmp_path / "root"), LENGTH, workers=0)
    data.prepare_data()
    data.setup()
    assert data.labels == ("kick", "snare")
    assert data.store.refused() == [
        ("gone.wav", f"named by {'tiny.h2drumkit' if packed else 'drumkit.xml'}, and not there")
    ]
    rows = {data.labels[label]: clip for label, clip in zip(data.store.label_ids, data.store.clips, strict=True)}
    assert np.array_equal(rows["snare"], expected()["snare"])


def test_an_archive_that_is_no_kit_or_leaves_its_folder_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "bad.h2drumkit").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not a Hydrogen kit, or damaged"):
        kits.unpack(tmp_path / "bad.h2drumkit", tmp_path / "home")
    with tarfile.open(tmp_path / "out.h2drumkit", "w") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"), io.BytesIO())
    with pytest.raises(ValueError, match="not a Hydrogen kit, or damaged"):
        kits.unpack(tmp_path / "out.h2drumkit", tmp_path / "home")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.h2drumkit", "out.h2drumkit"]


def test_a_soundfont_goes_into_a_store_with_its_licence(tmp_path):
    (tmp_path / "tiny.sf2").write_bytes(soundfont())
    data = AudioDataModule(str(tmp_path / "tiny.sf2"), str(tmp_path / "root"), LENGTH, workers=0)
    data.prepare_data()
    data.setup()
    assert data.labels == ("cymbal", "kick", "snare")
    assert {line["licence"] for line in data.store.manifest()} == {"CC0, nobody"}

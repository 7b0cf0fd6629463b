import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffwave_sde.data import recordings
from diffwave_sde.data.build import prepare

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: drumkits/One?Kit.h2drumkit
 drumkits/Other.h2drumkit
Copyright: somebody <some@body.example>
License: GPL-2+ with exception
 A longer text.
 .
 And more of it.

Files: drumkits/Other.h2drumkit
Copyright: somebody else
License: CC0
"""

KIT = """<drumkit_info xmlns="http://www.hydrogen-music.org/drumkit"><instrumentList>
<instrument><name>Floor Tom</name><layer><filename>ft_01.wav</filename></layer></instrument>
</instrumentList></drumkit_info>"""


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + text)
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def apt(tmp_path, monkeypatch) -> Path:
    """An apt-get that copies an archive, and a dpkg-deb that unpacks it; each use leaves a line in `log`."""
    tree = tmp_path / "tree"
    kits, notes = tree / "usr/share/hydrogen/data/drumkits", tree / "usr/share/doc/hydrogen-drumkits"
    for k, name in enumerate(["One Kit/Kick-Hard.wav", "One Kit/ft_01.wav", "Other v2/SD_1.wav"]):
        (kits / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(kits / name, np.random.default_rng(k).normal(0, 0.1, 4_000), 44_100)
    (kits / "One Kit" / "drumkit.xml").write_text(KIT)
    notes.mkdir(parents=True)
    (notes / "copyright").write_text(COPYRIGHT)
    subprocess.run(["tar", "-cf", tmp_path / "archive", "-C", tree, "."], check=True)
    log = tmp_path / "log"
    program(tmp_path / "bin", "apt-get", f'echo "$@" >> {log}; cp {tmp_path}/archive ./$2_1_all.deb')
    program(tmp_path / "bin", "dpkg-deb", f'echo unpack >> {log}; mkdir -p "$3" && tar -xf "$2" -C "$3"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return log


def test_a_package_is_fetched_once_and_labelled_with_kits_and_licences(apt, tmp_path):
    for _ in range(2):
        it = prepare("hydrogen", tmp_path / "data", 1_000, group_by="folder", progress=False)
    assert apt.read_text() == "download hydrogen-drumkits\nunpack\n"
    found = {line["file"]: (line["label"], line["group"], line["licence"]) for line in it.manifest() if line["row"]}
    assert found == {
        "One Kit/Kick-Hard.wav": ("kick", "One Kit", "GPL-2+ with exception (somebody)"),
        "One Kit/ft_01.wav": ("tom", "One Kit", "GPL-2+ with exception (somebody)"),
        "Other v2/SD_1.wav": ("snare", "Other v2", "CC0 (somebody else)"),
    }
    home = tmp_path / "data" / "recordings" / "hydrogen-drumkits"
    assert (home / "copyright").read_text() == COPYRIGHT
    assert not list(home.parent.glob("*.partial"))


def test_recordings_of_one_licence_go_with_built_in_sounds(apt, tmp_path):
    it = prepare("drums + hydrogen", tmp_path / "data", 1_000, count=6, licence="CC0", progress=False)
    assert [line["file"] for line in it.manifest() if line["row"]][6:] == ["Other v2/SD_1.wav"]
    assert it.labels == ("cymbal", "kick", "snare")


def test_a_download_that_was_unpacked_by_half_is_not_fetched_again(apt, tmp_path):
    program(tmp_path / "bin", "dpkg-deb", 'mkdir -p "$3/usr"; kill -9 $PPID')
    code = f"from diffwave_sde.data.recordings import *; fetch('hydrogen', Path('{tmp_path}/data'))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    home = tmp_path / "data" / "recordings" / "hydrogen-drumkits"
    assert not home.exists()
    program(tmp_path / "bin", "dpkg-deb", 'mkdir -p "$3" && tar -xf "$2" -C "$3"')
    assert recordings.fetch("hydrogen", tmp_path / "data") == home
    assert (home / "copyright").exists()
    assert apt.read_text().count("download") == 1


def test_a_package_that_does_not_unpack_is_fetched_anew_next_time(apt, tmp_path):
    good = (tmp_path / "bin" / "dpkg-deb").read_text()
    program(tmp_path / "bin", "dpkg-deb", "echo 'dpkg-deb: error: not a Debian archive' >&2; exit 2")
    with pytest.raises(OSError, match="not a Debian archive"):
        recordings.fetch("hydrogen", tmp_path / "data")
    (tmp_path / "bin" / "dpkg-deb").write_text(good)
    recordings.fetch("hydrogen", tmp_path / "data")
    assert apt.read_text().count("download") == 2


@pytest.mark.parametrize("dataset", recordings.PACKAGES)
def test_without_apt_one_sentence_says_what_to_do_instead(tmp_path, monkeypatch, dataset):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="needs apt-get, which is not here") as caught:
        prepare(dataset, tmp_path / "data", progress=False)
    assert "folder of sounds" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_without_a_network_one_line_gives_apts_reason_and_the_remedy(apt, tmp_path):
    program(tmp_path / "bin", "apt-get", "echo 'W: x' >&2; echo 'E: Unable to locate package y' >&2; exit 100")
    with pytest.raises(OSError, match="Unable to locate package y; run `apt-get update`") as caught:
        recordings.fetch("hydrogen", tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "label"), [
    ("PearlSnareRimshot-Hard.wav", "snare"), ("PearlSideStick-Soft.wav", "percussion"),
    ("HiHatSemiopen-0.wav", "cymbal"),
    ("EE_Hat_Cl_Bs.flac", "cymbal"), ("hhclosed_01.flac", "cymbal"), ("Hard_Hse_OHH_1.flac", "cymbal"),
    ("CrashRide18Bell-0.wav", "cymbal"), ("bassdrum-4mics-br-stereo-soft2.flac", "kick"), ("PowR_BD_1.flac", "kick"),
    ("drum_bass_hard.flac", "kick"), ("Djembe1 Bass.wav", "percussion"), ("floortom_01.flac", "tom"),
    ("99930__menegass__noise-tom0.wav", "tom"), ("VP Tom Hi.flac", "tom"), ("HandClap-Med.wav", "clap"),
    ("EE_Clap_Hard.flac", "clap"), ("Cowbell-Soft.wav", "percussion"), ("rsnare_01.flac", "snare"),
    ("sd_01.flac", "snare"), ("beats_01-10.flac", None), ("stone.wav", None),
])  # fmt: skip
def test_a_name_tells_the_kind_of_drum(name, label):
    assert recordings.drum(name) == label


@pytest.mark.parametrize(("name", "label"), [
    ("bd_haus.flac", "kick"), ("sn_dub.flac", "snare"), ("drum_cymbal_open.flac", "cymbal"),
    ("elec_fuzz_tom.flac", "tom"),
    ("drum_cowbell.flac", "percussion"), ("tabla_na.flac", "percussion"), ("elec_ping.flac", "electronic"),
    ("bass_drop_c.flac", "bass"), ("loop_tabla.flac", "loop"), ("vinyl_hiss.flac", "effect"),
    ("new_thing.flac", "effect"),
])  # fmt: skip
def test_sonic_pis_families_are_classes_and_its_drums_come_first(name, label):
    found = recordings.PACKAGES["sonic-pi"].label(Path(), [name])
    assert found[name] == (label, name.split("_")[0])

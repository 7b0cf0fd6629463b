import os
from pathlib import Path

import pytest

from diffwave_sde.paths import expand


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SOUNDS", "/mnt/sounds")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_home_and_variables_are_put_in(somewhere):
    assert expand("~") == expand(Path("~")) == somewhere / "home"
    assert expand("~/x") == expand("$HOME/x") == expand("${HOME}/x") == somewhere / "home" / "x"
    assert expand("a/$SOUNDS-2/${SOUNDS}b") == Path("a//mnt/sounds-2//mnt/soundsb")
    # nothing stands for anything else here
    for text in ("x/~", "a~b", "50$", "caf\udce9", "$/x", "."):
        assert expand(text) == Path(text)


@pytest.mark.parametrize("text", ["$UNSET/x", "a/${UNSET}", "${}/x", "~nobody-of-this-name/x"])
def test_what_stands_for_nothing_is_refused_in_one_line_and_no_folder_is_made_of_it(somewhere, text):
    with pytest.raises(ValueError, match="write the path out") as caught:
        expand(text)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)
    assert os.listdir(somewhere) == []


def test_a_folder_with_a_dollar_in_its_name_can_be_named(somewhere):
    (somewhere / "A$UNSET kit").mkdir()
    assert expand("A$UNSET kit") == Path("A$UNSET kit")
    assert expand(somewhere / "A$UNSET kit") == somewhere / "A$UNSET kit"


def test_a_name_that_is_not_utf8_can_be_typed_with_its_escape(somewhere):
    folder = somewhere / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    assert expand(somewhere / r"caf\xe9") == folder
    (somewhere / r"caf\xe9").mkdir()  # what is called so literally comes first
    assert expand(somewhere / r"caf\xe9") == somewhere / r"caf\xe9"
    assert expand(r"new\xe9\0") == Path(r"new\xe9\0")

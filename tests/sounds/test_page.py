import base64
import io
import os
from html.parser import HTMLParser
from urllib.parse import unquote, unquote_to_bytes

import pytest
import soundfile
import torch

from diffwave_sde.sounds import page


class Reader(HTMLParser):
    """What a page links to, and its headings."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.labels, self.heads, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.inside = tag
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "audio":
            self.labels.append(attrs["aria-label"])
            assert attrs["preload"] == "none"
            assert "controls" in attrs

    def handle_data(self, data):
        if self.inside in ("th", "h1", "h2") and data.strip():
            self.heads.append(data)


def sounds(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.wav").touch()
        (folder / f"{name}.png").touch()
    return [folder / f"{name}.wav" for name in names]


def test_every_link_is_relative_and_leads_to_a_file(tmp_path):
    names = ["00 kick", "01 50% & <snare>#?"]
    columns = [page.Column("data", sounds(tmp_path / "a b", names), reference=True)]
    columns.append(page.Column("step 1,000", sounds(tmp_path / "step=1000", names)))
    page.write(tmp_path / "index.html", "a & b", names, columns)
    seen = Reader((tmp_path / "index.html").read_text())
    assert len(seen.links) == 8
    assert all((tmp_path / unquote(link)).is_file() for link in seen.links)
    assert not any(link.startswith(("/", "http")) for link in seen.links)


def test_a_table_has_a_heading_for_each_row_and_column_and_a_name_for_each_player(tmp_path):
    names = ["00 kick", "01 snare"]
    files = sounds(tmp_path / "x", names)
    columns = [page.Column("data", files), page.Column("step 5", [files[0], None])]
    page.write(tmp_path / "index.html", "run", names, columns)
    seen = Reader((tmp_path / "index.html").read_text())
    assert seen.heads == ["run", "sound", "data", "step 5", *names]
    assert seen.labels == ["00 kick, data", "00 kick, step 5", "01 snare, data"]


def test_one_column_is_a_list(tmp_path):
    page.write(tmp_path / "index.html", "run", ["a", "b"], [page.Column("", sounds(tmp_path / "x", "ab"))])
    text = (tmp_path / "index.html").read_text()
    assert "<table" not in text
    assert Reader(text).labels == ["a", "b"]


def test_a_section_of_one_column_may_be_a_list_whose_captions_come_before_the_players(tmp_path):
    column = page.Column("x", sounds(tmp_path / "x", "ab"), captions=["too loud", "too long"])
    part = page.Section("Clipped (2)", rows=["a", "b"], columns=[column], listed=True)
    page.write(tmp_path / "index.html", "run", [], [], sections=[part])
    text = (tmp_path / "index.html").read_text()
    assert "<table" not in text
    assert '<a href="#part-0">Clipped (2)</a>' in text
    assert Reader(text).labels == ["a", "b"]
    assert text.index("<h3>a</h3>") < text.index("too loud") < text.index("<audio") < text.index("<h3>b</h3>")


def test_names_are_text_not_markup(tmp_path):
    page.write(tmp_path / "index.html", "<b>", ["<i>"], [page.Column("<u>", sounds(tmp_path / "x", "a"))], "<s>")
    text = (tmp_path / "index.html").read_text()
    assert not any(tag in text for tag in ("<b>", "<i>", "<u>", "<s>"))


def test_a_column_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="column 'x' has 0 sounds for 1 rows"):
        page.write(tmp_path / "index.html", "run", ["a"], [page.Column("x", [])])
    assert not list(tmp_path.iterdir())


def test_names_of_any_text_have_files_links_and_headings(tmp_path):
    """In a folder whose own name is not UTF-8."""
    home = tmp_path / os.fsdecode(b"caf\xe9")
    names = [os.fsdecode(b"0 caf\xe9"), r"1 caf\xe9", "2 a,b/c", "3 \u5927\u9f13", "4 " + "x" * 250, "5 a\nb"]
    files = page.write_sounds(home, names, torch.zeros(len(names), 600))
    assert [f.name for f in files[:4]] == ["0-caf-xe9.wav", "1-caf-xe9.wav", "2-a-b-c.wav", "3-\u5927\u9f13.wav"]
    page.write(home / "index.html", names[0], names, [page.Column("x", files)], names[0])
    seen = Reader((home / "index.html").read_text("utf-8"))
    assert seen.heads[:3] == [r"0 caf\xe9", r"0 caf\xe9", r"1 caf\xe9"]
    assert all((home / os.fsdecode(unquote_to_bytes(link))).is_file() for link in seen.links)


def test_an_embedded_page_holds_the_sounds_and_links_to_nothing(tmp_path):
    waves = torch.linspace(-0.9, 0.9, 700).repeat(2, 1) * torch.tensor([[1.0], [-0.5]])
    files = page.write_sounds(tmp_path / "sounds", ["a", "b"], waves)
    more = page.Section("More", "a note", rows=["c"], columns=[page.Column("x", files[:1])])
    page.write(tmp_path / "one.html", "run", ["a", "b"], [page.Column("x", files)], sections=[more], embed=True)
    links = [link for link in Reader((tmp_path / "one.html").read_text()).links if not link.startswith("#")]
    assert [link.partition(";")[0] for link in links] == ["data:audio/flac", "data:image/png"] * 3
    heard = soundfile.read(io.BytesIO(base64.b64decode(links[2].partition(",")[2])))
    assert heard[1] == 44100
    assert abs(torch.from_numpy(heard[0]) - waves[1]).max() <= 2**-15

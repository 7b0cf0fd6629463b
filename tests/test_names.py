import csv
import io
import json
import os

import pytest

from diffwave_sde.names import asked_for, escape, unescape

NAMES = [
    "kick", "", " ", "caf\u00e9", "\u5927\u9f13 1", "\U0001f941", "808", "on", "a + b", "a,b\"c';#", "[x]", "$x", "~",
    os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe\x80"), "two\nlines", "tab\tbell\x07\x1b[31m", "\x7f\x85\u2028",
    "back\\slash", "\\xe9", "\\\\n", "\\u00e9", "\\", "\u202eback", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=escape)
def test_any_name_comes_back_from_one_printable_line_of_utf8(name):
    spelt = escape(name)
    assert unescape(spelt) == name
    spelt.encode("utf-8")
    assert spelt.isprintable()
    table = io.StringIO()
    csv.writer(table).writerow([spelt])
    assert next(csv.reader(io.StringIO(table.getvalue())), [""]) == [spelt]
    assert json.loads(json.dumps(spelt, ensure_ascii=False).encode("utf-8")) == spelt


def test_different_names_are_spelt_differently():
    assert len({escape(name) for name in NAMES}) == len(NAMES)


def test_what_prints_is_spelt_as_it_is():
    for name in ("kick", "caf\u00e9", "\u5927\u9f13 1", "a + b", "[x]"):
        assert escape(name) == name
    assert escape(os.fsdecode(b"caf\xe9")) == r"caf\xe9"


def test_a_person_means_the_name_itself_before_what_it_spells():
    byte, text = os.fsdecode(b"caf\xe9"), r"caf\xe9"
    assert asked_for(text, ["kick", byte]) == byte
    assert asked_for(text, [byte, text]) == text
    assert asked_for(escape(text), [byte, text]) == text
    assert asked_for(byte, ["kick", text]) == text
    assert asked_for("snare", [byte, text]) is None

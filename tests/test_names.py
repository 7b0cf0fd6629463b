import csv
import io
import json
import os

import pytest
import yaml

from diffwave_sde.names import (
    asked_for,
    cut,
    escape,
    folder_name,
    listed,
    pick,
    printable,
    spell_bytes,
    split,
    unescape,
)

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


LISTED = [name for name in NAMES if name]


def test_any_names_come_back_from_a_list_as_it_is_told():
    spelt = [escape(name) for name in LISTED]
    told = listed(spelt)
    everyone = [{i: 1.0} for i in range(len(LISTED))]
    assert pick(told, spelt) == everyone
    assert pick(told, LISTED) == everyone


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("kick, snare", ["kick", "snare"]),
        (r"a\,b,c", ["a,b", "c"]),
        (r"a\\,b", [r"a\\", "b"]),
        (r"caf\xe9", [r"caf\xe9"]),
        ("", [""]),
        ("a,", ["a", ""]),
        ("a\\", ["a\\"]),
    ],
)
def test_a_comma_after_a_backslash_separates_nothing(text, parts):
    assert split(text) == parts


def test_a_list_is_of_known_names_or_one_whose_commas_were_typed():
    known = ["a", "b", "a,c", r"caf\xe9", "808"]
    assert pick(r"b, caf\xe9,808", known) == [{1: 1.0}, {3: 1.0}, {4: 1.0}]
    assert pick(os.fsdecode(b"caf\xe9"), known) == [{3: 1.0}]
    assert pick("a,b", known) == [{0: 1.0}, {1: 1.0}]
    assert pick("a,c", known) == [{2: 1.0}]
    with pytest.raises(ValueError, match=r"^gong: choose of a, b, a\\,c, caf\\xe9, 808$"):
        pick("a,gong", known)


def test_classes_are_mixed_by_shares():
    known = ["kick", "snare", "hi+hat", "9:16"]
    assert pick("kick:0.7 + snare:0.3", known) == [{0: 0.7, 1: 0.3}]
    assert pick("kick+snare,snare", known) == [{0: 0.5, 1: 0.5}, {1: 1.0}]
    assert pick(r"hi+hat,hi\+hat:2+9:16:-1", known) == [{2: 1.0}, {2: 2.0, 3: -1.0}]
    assert pick("9:16", known) == [{3: 1.0}]
    assert pick("kick:0.5+kick:0.25", known) == [{0: 0.75}]
    with pytest.raises(ValueError, match=r"^gong:1: choose of kick, snare"):
        pick("kick:1+gong:1", known)
    for wrong in ("kick:much", "kick:", "kick:nan"):
        with pytest.raises(ValueError, match=rf"^{wrong}: .* is no share: give a number, such as 0.7"):
            pick(wrong, known)


def test_an_argument_for_yaml_holds_no_bytes_that_are_not_utf8():
    byte = os.fsdecode(b"caf\xe9")
    for text in (byte, f"[808, {byte}]", f'[kick, "{byte}"]', f'["x", {byte}]'):
        spelt = yaml.safe_load(spell_bytes(text))
        assert r"caf\xe9" in (spelt if isinstance(spelt, list) else [spelt])


def test_a_name_of_any_text_is_that_of_a_folder():
    for name in NAMES:
        short = folder_name(name * 300)
        assert short.isprintable()
        assert len(short.encode()) <= 200
    assert folder_name(os.fsdecode(b"caf\xe9")) == "caf-xe9"
    assert cut("\u5927" * 300) == "\u5927" * 66


def test_what_is_printable_stays_as_it_is():
    assert printable(r"a\b caf\xe9") == r"a\b caf\xe9"
    assert printable("a\n" + os.fsdecode(b"caf\xe9")) == r"a\ncaf\xe9"

"""YAML from outside: JSON's scalars, none of YAML's dangers; and YAML as we write it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.api.yamltext import DEEPEST, decode_yaml, encode_yaml
from broker.errors import Malformed


def test_scalars_are_those_of_json() -> None:
    text = b"""
words: [no, yes, on, Null, ~, True, .nan, .inf, NaN, 12:30:00, 0x10, 0o7, 1_000, +1, 2026-11-22]
numbers: [0, -1, 1.5, 1e3, -0.5E-2, 1.]
json: [null, true, false]
quoted: ["1", 'null', "true"]
empty:
1: one
true: two
block: |
  12
"""
    assert decode_yaml(text) == {
        "words": ["no", "yes", "on", "Null", "~", "True", ".nan", ".inf", "NaN", "12:30:00", "0x10", "0o7", "1_000",
                  "+1", "2026-11-22"],
        "numbers": [0, -1, 1.5, 1000.0, -0.005, 1.0],
        "json": [None, True, False],
        "quoted": ["1", "null", "true"],
        "empty": None,
        "1": "one",
        "true": "two",
        "block": "12\n",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"a: &x 1\nb: *x", "line 1, column 4: anchors"),
        (b"a: *x", "line 1, column 4: anchors"),
        (b"a: !!python/object:os.system 1", "line 1, column 4: tags"),
        (b"a: !x 1", "tags"),
        (b"a: !!str 1", "tags"),
        (b"!!map {a: 1}", "tags"),
        (b"!!seq [a]", "tags"),
        (b"a: {<<: {b: 1}}", "merge keys"),
        (b"a: 1\nb: 2\na: 3", 'line 3, column 1: the key "a" stands twice'),
        (b"1: a\n'1': b", 'the key "1" stands twice'),
        (b"? [a]\n: 1", "a key is a text"),
        (b"? {a: b}\n: 1", "a key is a text"),
        (b"a: 1\n---\nb: 2", "a second document"),
        (b"a: 1e999", "too large"),
        (b"a: " + b"9" * 30, "64 bits"),
        (b"a: [1, 2\nb: 3", "no YAML: line 2"),
        (b"a: \x01", "no YAML"),
        (b"\xff", "no UTF-8 at byte 0"),
        (b'a: "x\\0y"', "U+0000"),
        (b"- " * (DEEPEST + 1) + b"1", "nested more than 32"),
        (b"{a: " * (DEEPEST + 1), "nested more than 32"),
    ],
)
def test_refuses_by_name_and_place(body: bytes, words: str) -> None:
    with pytest.raises(Malformed) as refusal:
        decode_yaml(body)
    assert words in refusal.value.detail


def test_depth_ends_exactly_at_the_bound() -> None:
    decode_yaml(b"- " * DEEPEST + b"1")


def test_a_quoted_merge_key_is_a_key() -> None:
    assert decode_yaml(b'"<<": 1') == {"<<": 1}


_BOMBS = """
import yaml
from broker.api.yamltext import decode_yaml
from broker.errors import Malformed

read = []
real = yaml.CSafeLoader.get_event
yaml.CSafeLoader.get_event = lambda self: read.append(1) or real(self)
merge = b"a0: &a0 {k: v}\\n" + b"".join(
    b"a%d: &a%d {<<: [%s]}\\n" % (i, i, b",".join(b"*a%d" % (i - 1) for _ in range(9))) for i in range(1, 99)
)
for bomb in (b"[" * 26_000 + b"]" * 26_000, b"[" * 60_000, b"{a: " * 15_000, b"- " * 30_000, b"? " * 30_000, merge):
    read.clear()
    try:
        decode_yaml(bomb)
    except Malformed:
        assert len(read) < 200, len(read)
    else:
        raise SystemExit("taken: " + repr(bomb[:40]))
print("alive")
"""


def test_bombs_are_dropped_after_a_few_events_and_the_process_lives() -> None:
    # Apart, for PyYAML's own loader dies of the first of them: no exception, the process.
    done = subprocess.run([sys.executable, "-c", _BOMBS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(
    ["no", "12:30:00", "1e3", "0o17", "0x1f", "~", "null", "", "<<", "=", "- a", "&a", "*a", "!a", "1.", ".5", "+1",
     "2026-11-22", "#", "a: b", "? x", "%", "@", "`", "\x85", "\u2028", "true", "Infinity", ".nan", "-", "---", "..."]
)  # fmt: skip
_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
_DOCUMENTS = st.recursive(
    _SCALARS | _TEXTS, lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner), max_leaves=15
)


@settings(deadline=None)
@given(_DOCUMENTS)
def test_what_we_write_we_read_back(document: Any) -> None:
    assert decode_yaml(encode_yaml(document)) == document


@settings(deadline=None)
@given(_DOCUMENTS)
def test_readers_of_yaml_1_1_read_the_same(document: Any) -> None:
    assert yaml.safe_load(encode_yaml(document).decode()) == document


def test_no_aliases_are_written() -> None:
    shared = {"a": [1]}
    assert b"*" not in encode_yaml([shared, shared])

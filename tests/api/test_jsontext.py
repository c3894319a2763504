"""JSON from outside: what is refused, and that the refusal names the element."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.api.jsontext import DEEPEST, MOST, decode_json, sane
from broker.errors import Malformed


@pytest.mark.parametrize(
    ("body", "element", "words"),
    [
        (b"", "", "no JSON: line 1"),
        (b'{"a": 1,}', "", "no JSON: line 1"),
        (b"{'a': 1}", "", "no JSON: line 1"),
        (b"\xff", "", "no UTF-8 at byte 0"),
        (b'{"a": NaN}', "", "NaN is no JSON"),
        (b'{"a": -Infinity}', "", "-Infinity is no JSON"),
        (b'{"a": {"b": [1, 1e999]}}', "a.b[1]", "too large"),
        (b"-1e999", "", "too large"),
        (b'{"a": 1, "b": 2, "a": 3}', "", 'the key "a" stands twice'),
        (b'{"a": 18446744073709551616}', "a", "64 bits"),
        (b'{"a": -9223372036854775809}', "a", "64 bits"),
        (b'{"a": ' + b"1" * 5000 + b"}", "", "too long"),
        (b'{"a": [{"b": "\\ud800"}]}', "a[0].b", "surrogate"),
        (b'{"a": {"\\ud800": 1}}', "a.?", "surrogate"),
        (b'{"a": "x\\u0000y"}', "a", "U+0000"),
        (b"[" * 100_000, "", "64 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "", "64 levels"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "", "64 levels"),
    ],
)
def test_refuses_what_no_reader_takes_the_same_way(body: bytes, element: str, words: str) -> None:
    with pytest.raises(Malformed) as refusal:
        decode_json(body)
    assert words in refusal.value.detail
    assert refusal.value.element == element


def test_depth_ends_exactly_at_the_bound() -> None:
    decode_json(b"[" * DEEPEST + b"]" * DEEPEST)
    with pytest.raises(Malformed):
        decode_json(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))


def test_a_fault_is_found_beside_a_deep_neighbour() -> None:
    deep = b"[" * 300 + b"]" * 300
    with pytest.raises(Malformed) as refusal:
        decode_json(b'{"deep": ' + deep + b', "bad": 1e999}')
    assert refusal.value.element == "bad"


def test_elements_end_exactly_at_the_bound() -> None:
    half = (MOST - 2) // 2  # beside the document itself and its one property
    full = b'{"a": [' + b",".join([b"[0]"] * half) + b"]}"
    decode_json(full)
    with pytest.raises(Malformed) as refusal:
        decode_json(full[:-2] + b",0]}")
    assert "100000 elements" in refusal.value.detail


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode_json(b"\xef\xbb\xbf{}") == {}


_SCALARS = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
_DOCUMENTS = st.recursive(
    _SCALARS.filter(lambda n: n != 2**64) | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(_DOCUMENTS)
def test_what_another_encoder_writes_is_read_back(document: Any) -> None:
    assert decode_json(msgspec.json.encode(document)) == document
    assert sane(document, 64) is document

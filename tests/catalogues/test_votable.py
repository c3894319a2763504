"""Reading VOTables: what astropy writes, what services write, and what nobody should."""

from __future__ import annotations

import base64
import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from astropy.io.votable.tree import Field, Resource, TableElement, VOTableFile
from hypothesis import given
from hypothesis import strategies as st

from adapters.data.votable import MOST_ELEMENTS, MOST_FIELDS, read
from adapters.data.votable_binary import MOST_CELLS
from broker.errors import SiteMisbehaved

ROW = "<TR><TD>a</TD><TD>1</TD></TR>"
FIELDS = '<FIELD name="Name" datatype="char" arraysize="*"/><FIELD name="size" datatype="long"/>'


def table(data: str, fields: str = FIELDS, around: str = "") -> bytes:
    return (
        f'<?xml version="1.0"?><VOTABLE xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE type="results">'
        f"<TABLE>{fields}<DATA>{data}</DATA></TABLE>{around}</RESOURCE></VOTABLE>"
    ).encode()


def rows(*rows: str) -> bytes:
    return table(f"<TABLEDATA>{''.join(rows)}</TABLEDATA>")


def packed(stream: bytes, fields: str = FIELDS, form: str = "BINARY") -> bytes:
    return table(f'<{form}><STREAM encoding="base64">{base64.b64encode(stream).decode()}</STREAM></{form}>', fields)


def by_astropy(form: str) -> bytes:
    """Every kind of field that a service may add to those that count."""
    file = VOTableFile()
    resource = Resource(type="results")
    file.resources.append(resource)
    made = TableElement(file)
    resource.tables.append(made)
    kinds = {
        "text": ("char", "*"), "wide": ("unicodeChar", "*"), "fixed": ("char", "4"), "flag": ("boolean", None),
        "byte": ("unsignedByte", None), "short": ("short", None), "int": ("int", None), "long": ("long", None),
        "float": ("float", None), "double": ("double", None), "points": ("double", "2"), "some": ("int", "*"),
        "grid": ("short", "2x3"), "bits": ("bit", "10"), "complex": ("floatComplex", None), "last": ("char", "*"),
    }  # fmt: skip
    made.fields.extend(
        Field(file, name=name, datatype=kind, **({"arraysize": size} if size else {}))
        for name, (kind, size) in kinds.items()
    )
    made.create_arrays(2)
    made.array["text"] = ["M 31 & more", "e"]
    made.array["wide"] = ["αβ", "x"]
    made.array["fixed"] = ["ab", "abcd"]
    for name, low in (("byte", 1), ("short", 2), ("int", 3), ("long", 5_000_000_000), ("double", 1.5), ("float", 0.5)):
        made.array[name] = [low, low + 1]
    made.array["some"] = [np.ma.array([1, 2, 3], "i4", mask=[False] * 3), np.ma.array([], "i4")]
    made.array["last"] = ["end", "over"]
    if form != "binary":  # in which a number is null by a value alone
        made.array.mask["long"] = [False, True]
    made.format = form
    out = io.BytesIO()
    file.to_xml(out, tabledata_format=form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["tabledata", "binary", "binary2"])
def test_all_three_serialisations_of_astropy_read_the_same(form: str) -> None:
    found = read(by_astropy(form))
    first, second = found.rows
    assert (first["text"], first["wide"], first["fixed"], first["last"]) == ("M 31 & more", "αβ", "ab", "end")
    assert (second["text"], second["wide"], second["fixed"], second["last"]) == ("e", "x", "abcd", "over")
    assert [first[name] for name in ("byte", "short", "int", "long")] == ["1", "2", "3", "5000000000"]
    assert float(first["double"] or "") == 1.5
    assert float(second["float"] or "") == 1.5
    assert second["long"] is None or form == "binary"


def test_cells_are_read_by_their_fields_names_and_blanks_are_none() -> None:
    found = read(rows(ROW, "<TR><TD>  </TD><TD/></TR>"))
    assert found.fields == ("name", "size")
    assert found.rows == ({"name": "a", "size": "1"}, {"name": None, "size": None})


def test_the_value_that_stands_for_null_is_none() -> None:
    fields = FIELDS.replace('"long"/>', '"long"><VALUES null="-1"/></FIELD>')
    assert read(table("<TABLEDATA><TR><TD>a</TD><TD>-1</TD></TR></TABLEDATA>", fields)).rows[0]["size"] is None
    stream = struct.pack(">I1sq", 1, b"a", -1)
    assert read(packed(stream, fields)).rows == ({"name": "a", "size": None},)


def test_a_prefix_of_the_namespace_and_a_stylesheet_are_of_no_account() -> None:
    text = rows(ROW).decode().replace("<", "<v:").replace("<v:/", "</v:").replace("<v:?xml", "<?xml")
    text = text.replace('xmlns="', 'xmlns:v="').replace('"1.0"?>', '"1.0"?><?xml-stylesheet href="x.xsl"?>')
    assert read(text.encode()).rows == read(rows(ROW)).rows


def test_the_first_table_with_data_counts() -> None:
    meta = f"<TABLE>{FIELDS}{FIELDS}</TABLE>"
    text = rows(ROW).decode().replace('type="results">', f'type="results">{meta}')
    other = f"<TABLE>{FIELDS}<DATA><TABLEDATA>{ROW}{ROW}</TABLEDATA></DATA></TABLE></RESOURCE>"
    assert len(read(text.replace("</RESOURCE>", other).encode()).rows) == 1


def test_what_the_service_says_of_its_query_is_read_before_and_after_the_table() -> None:
    said = table(
        f"<TABLEDATA>{ROW}</TABLEDATA>",
        f'{FIELDS}<INFO name="QUERY_STATUS" value="ok">all\n  well</INFO>',
        '<INFO name="QUERY_STATUS" value="OVERFLOW"/><INFO name="other" value="x">y</INFO>',
    )
    found = read(said)
    assert (found.status, found.words, found.overflow) == ("OK", "all well", True)


def test_a_service_that_fails_without_a_table_says_why() -> None:
    found = read(
        b'<VOTABLE><RESOURCE><INFO name="QUERY_STATUS" value="ERROR">no such table</INFO></RESOURCE></VOTABLE>'
    )
    assert (found.fields, found.rows, found.status, found.words) == ((), (), "ERROR", "no such table")


def _element(name: str, inner: list[str]) -> str:
    more = ' name="QUERY_STATUS" value="OK" encoding="base64"' if name in ("INFO", "STREAM") else ""
    return f"<{name}{more}>{''.join(inner)}</{name}>"


LAUGHS = b"".join(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 12))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'<!DOCTYPE V [<!ENTITY a0 "ha">' + LAUGHS + b"]><VOTABLE>&a11;</VOTABLE>", "document type"),
        (b'<!DOCTYPE V [<!ENTITY x SYSTEM "file:///etc/passwd">]><VOTABLE>&x;</VOTABLE>', "document type"),
        (b'<!DOCTYPE V SYSTEM "http://127.0.0.1:1/x.dtd"><VOTABLE/>', "document type"),
        (b"<VOTABLE>" + b"<RESOURCE>" * 100_000, "levels deep"),
        (b"<VOTABLE>" + b"<INFO/>" * (MOST_ELEMENTS + 1), "elements"),
        (b"<html><body>Please log in</body></html>", "<html>"),
        (b"<!doctype html><html>", "no XML"),
        (b"", "no XML"),
        (b"\x00\x01\x02", "no XML"),
        (b"<VOTABLE><RESOURCE>", "no XML"),
        (b"<VOTABLE>\xff\xfe\xfd</VOTABLE>", "no XML"),
        (b'<?xml version="1.0" encoding="utf-7"?><VOTABLE/>', "encoding"),
        (b'<?xml version="1.0" encoding="no-such"?><VOTABLE/>', "encoding"),
        (b'<?xml version="1.0" encoding="utf-16"?><VOTABLE/>', "encoding"),
        (rows(ROW, "<TR><TD>b</TD></TR>"), "1 cells, for 2 fields"),
        (rows(ROW, "<TR><TD>b</TD><TD>1</TD><TD>2</TD></TR>"), "3 cells, for 2 fields"),
        (table("<TABLEDATA/>", FIELDS * MOST_FIELDS), "fields"),
        (table('<FITS><STREAM href="http://x/y.fits"/></FITS>'), "FITS"),
        (table('<BINARY><STREAM href="http://x/y"/></BINARY>'), "lies elsewhere"),
        (table('<BINARY><STREAM encoding="gzip">x</STREAM></BINARY>'), "lies elsewhere"),
        (table('<BINARY><STREAM encoding="base64">abc</STREAM></BINARY>'), "base64"),
        (table('<BINARY><STREAM encoding="base64">é</STREAM></BINARY>'), "base64"),
        (packed(struct.pack(">I", 0xFFFFFFFF)), "breaks off"),
        (packed(struct.pack(">I1sI", 1, b"a", 7)), "breaks off"),
        (packed(b"\0" * 8, '<FIELD name="x" datatype="char" arraysize="0"/>'), "no bytes"),
        (packed(b"\0" * 8, ""), "no bytes"),
        (packed(b"\0" * 8, '<FIELD name="x" datatype="char" arraysize="-1"/>'), "arraysize"),
        (packed(b"\0" * 8, '<FIELD name="x" datatype="char" arraysize="999999999x999999999"/>'), "breaks off"),
        (packed(b"\0" * 8, '<FIELD name="x" datatype="elephant"/>'), "elephant"),
        (table('<BINARY><STREAM encoding="base64"><TD>x</TD></STREAM></BINARY>'), "base64"),
        (packed(b"\0" * (MOST_CELLS + 1), '<FIELD name="x" datatype="unsignedByte"/>'), "cells"),
    ],
)
def test_what_is_no_sound_table_is_refused_with_words(body: bytes, words: str) -> None:
    with pytest.raises(SiteMisbehaved, match=words) as caught:
        read(body)
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize(
    "body",
    [
        b'<VOTABLE><RESOURCE><FIELD><VALUES null="1"/></FIELD></RESOURCE></VOTABLE>',
        b'<VOTABLE><INFO name="QUERY_STATUS" value="OK"><TD/><STREAM/></INFO></VOTABLE>',
        b'<VOTABLE><RESOURCE><TABLE><DATA><TABLEDATA><TR><TD><INFO name="QUERY_STATUS" value="OK"/></TD></TR>'
        b"</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>",
    ],
)
def test_elements_in_places_of_others_are_of_no_account(body: bytes) -> None:
    with suppress(SiteMisbehaved):  # or they spoil the table; nothing else comes of them
        assert not any(any(row.values()) for row in read(body).rows)


NAMES = ("RESOURCE", "TABLE", "FIELD", "VALUES", "DATA", "TABLEDATA", "TR", "TD", "BINARY", "BINARY2", "STREAM", "INFO")


@given(
    st.recursive(st.just(""), lambda inner: st.builds(_element, st.sampled_from(NAMES), st.lists(inner, max_size=4)))
)
def test_no_order_of_elements_breaks_the_reader(text: str) -> None:
    with suppress(SiteMisbehaved):
        read(f"<VOTABLE>{text}</VOTABLE>".encode())


def test_an_arraysize_takes_no_time() -> None:
    """Its numbers are multiplied, in the event loop: two hundred thousand of them took fifteen seconds."""
    size = "x".join(["999999999"] * 200_000)
    with pytest.raises(SiteMisbehaved, match="arraysize") as caught:
        read(packed(b"\0" * 8, f'<FIELD name="x" datatype="char" arraysize="{size}"/>'))
    assert len(caught.value.detail) < 200


def test_numbers_that_are_none_do_not_come_out_of_packed_rows() -> None:
    fields = '<FIELD name="x" datatype="double"/>'
    stream = b"".join(struct.pack(">d", number) for number in (float("nan"), float("inf"), 2.0))
    assert [row["x"] for row in read(packed(stream, fields)).rows] == [None, None, "2.0"]


def test_latin_text_and_a_mark_of_utf_8_are_read() -> None:
    latin = rows("<TR><TD>é</TD><TD>1</TD></TR>").decode().replace('"1.0"', '"1.0" encoding="ISO-8859-1"')
    assert read(latin.encode("latin-1")).rows[0]["name"] == "é"
    assert read(b"\xef\xbb\xbf" + rows(ROW)).rows[0]["name"] == "a"

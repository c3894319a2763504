"""XML to models and back: types by the schema, names by its hints, refusals by name, and what attackers send."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from broker.api.openapi import models, schemas
from broker.api.xmlforms import ANSWER, PROBLEM, Form, Root, Shape, elements_of, fields_of, form_of, root_of
from broker.api.xmltext import DEEPEST, MOST, decode_xml
from broker.api.xmlwrite import encode_xml
from broker.domain import kinds
from broker.domain.base import Family
from broker.domain.components import ComponentMetadata, MessageItem
from broker.domain.faults import parse
from broker.domain.preferences import Preferences
from broker.domain.request import ExecutionRequest, check
from broker.domain.session import AbstractExecutionSession, OfferSetResponse
from broker.domain.site import Registration
from broker.domain.updates import AbstractUpdate
from broker.errors import BadInput, Malformed
from broker.testing.broker import drawn_offers, drawn_set

REQUEST = f"""<?xml version="1.0" encoding="utf-8"?>
<!-- as a person writes it -->
<offers-request>
  <executable kind="{kinds.DOCKER_CONTAINER}">
    <meta><name>fit</name></meta>
    <image>
      <locations>docker://a/b:1</locations>
      <locations>docker://c/d:1</locations>
      <platform><os>linux</os></platform>
    </image>
    <privileged>false</privileged>
    <command>run</command><command>-x</command>
    <environment>
      <entry name="OMP">4</entry>
      <entry name="a &lt;b&gt;">  kept  </entry>
      <entry name="empty"/>
    </environment>
    <network><ports><access>1</access><internal><port> 8888 </port></internal></ports></network>
  </executable>
  <compute kind="{kinds.SIMPLE_COMPUTE}">
    <cores><min>+2</min><max>04</max></cores>
    <extras><extra><type>uri:gpu-1.0</type><count>1</count></extra></extras>
  </compute>
  <storage kind="{kinds.SIMPLE_STORAGE}"><meta><name>scratch</name></meta><size><min>1</min></size></storage>
  <storage kind="{kinds.SIMPLE_STORAGE}"><meta><name>more</name></meta></storage>
  <data kind="{kinds.SIMPLE_DATA}"><meta><name>d</name></meta><location><![CDATA[http://x/?a=1&b=2]]></location></data>
  <cost kind="{kinds.MINMAX_COST}"><type>{kinds.MONETARY}</type><max>1e1</max></cost>
  <preferences>
    <preset>fastest</preset><enough>2</enough><failover>true</failover><risk>.5</risk>
    <countries_allowed><country>ES</country><country>FR</country></countries_allowed>
    <sites_forbidden/>
  </preferences>
</offers-request>
""".encode()


def test_a_request_is_read_by_the_schema() -> None:
    document = decode_xml(REQUEST, ExecutionRequest)
    assert document == {
        "executable": {
            "kind": kinds.DOCKER_CONTAINER,
            "meta": {"name": "fit"},
            "image": {"locations": ["docker://a/b:1", "docker://c/d:1"], "platform": {"os": "linux"}},
            "privileged": False,
            "command": ["run", "-x"],
            "environment": {"OMP": "4", "a <b>": "  kept  ", "empty": ""},
            "network": {"ports": [{"access": True, "internal": {"port": 8888}}]},
        },
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            "cores": {"min": 2, "max": 4},
            "extras": [{"type": "uri:gpu-1.0", "count": 1}],
        },
        "storage": [
            {"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}, "size": {"min": 1}},
            {"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "more"}},
        ],
        "data": [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "d"}, "location": "http://x/?a=1&b=2"}],
        "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 10.0}],
        "preferences": {
            "preset": "fastest",
            "enough": 2,
            "failover": True,
            "risk": 0.5,
            "countries_allowed": ["ES", "FR"],
            "sites_forbidden": [],
        },
    }
    assert isinstance(document["costs"][0]["max"], float)
    assert parse(ExecutionRequest, document).cores == (2, 4)


def test_a_set_is_written_by_the_schema() -> None:
    set_ = drawn_set(offers=drawn_offers()[:1]).to_wire()
    text = encode_xml(set_, root_of(OfferSetResponse)).decode()
    assert text.startswith(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<offers-response kind="{kinds.OFFERSET}">'
        "<meta><uuid>7f3a0001-0000-4000-8000-00000000feed</uuid></meta><result>YES</result>"
        f'<offers><execution kind="{kinds.SCHEDULED_SESSION}"><meta>'
    )
    assert (
        f'<options kind="{kinds.ENUM_OPTION}"><path>phase</path><values>ACCEPTED</values><values>REJECTED</values>'
        "</options></meta>"
        f'<cost kind="{kinds.MINMAX_COST}"><type>{kinds.MONETARY}</type><min>1.2</min><max>1.2</max>' in text
    )
    assert "<terms><term><name>price</name>" in text
    assert "</execution></offers><expires>2026-11-22T13:07:00Z</expires><outcomes><outcome><site>alba</site>" in text
    assert decode_xml(text.encode(), OfferSetResponse) == set_


# ── every model, both ways ───────────────────────────────────────────────────────────────────────────────────

EVERY = sorted(models(), key=lambda model: model.__name__)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"))
_TEXTS |= st.sampled_from(["", " a ", "]]>", "&amp;", "<a/>", "\n", "\r\n", "\t", '"', "'", "true", "1", "\x85"])
_WORDS = _TEXTS.map(lambda text: text.strip(" \t\r\n"))
_SCALARS: dict[Shape, st.SearchStrategy[Any]] = {
    Shape.TEXT: _TEXTS,
    Shape.WORD: _WORDS,
    Shape.WHOLE: st.integers(-(2**63), 2**63 - 1),
    Shape.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    Shape.FLAG: st.booleans(),
}
_ANYTHING = st.recursive(
    st.one_of(st.none(), *_SCALARS.values()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


def documents(model: type[BaseModel], depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Whatever the JSON form of `model` can hold, but for empty lists where XML has no form for them."""
    if not issubclass(model, Family):
        return _of_fields(model, {}, depth)
    members = {**getattr(model, "members", {}), "uri:of-nobody-1.0": model}
    return st.one_of(*(_of_fields(member, {"kind": st.just(kind)}, depth) for kind, member in sorted(members.items())))


def _of_fields(
    model: type[BaseModel], given_: dict[str, st.SearchStrategy[Any]], depth: int
) -> st.SearchStrategy[dict[str, Any]]:
    optional = {
        field.name: _values(field.form, depth, 0 if field.wrapped else 1)
        for field in fields_of(model)
        if not field.attribute and (depth or field.form.shape in _SCALARS)
    }
    return st.fixed_dictionaries(given_, optional=optional)


def _values(form: Form, depth: int, least: int = 0) -> st.SearchStrategy[Any]:
    if form.shape is Shape.LIST:
        assert form.inner
        return st.lists(_values(form.inner, depth), min_size=least, max_size=2)
    if form.shape is Shape.MAP:
        assert form.inner
        return st.dictionaries(_TEXTS, _values(form.inner, depth), max_size=2)
    if form.shape is Shape.OBJECT:
        model = form.model
        assert model
        return st.deferred(lambda: documents(model, depth - 1))
    return _ANYTHING if form.shape is Shape.ANY else _SCALARS[form.shape]


@pytest.mark.parametrize("model", EVERY, ids=lambda model: model.__name__)
def test_what_is_written_of_a_model_reads_back_the_same(model: type[BaseModel]) -> None:
    @settings(deadline=None, max_examples=15)
    @given(documents(model))
    def both_ways(document: dict[str, Any]) -> None:
        assert decode_xml(encode_xml(document, root_of(model)), model) == document

    both_ways()


def test_no_two_properties_of_a_model_share_an_element() -> None:
    for model in EVERY:
        fields = [field for field in fields_of(model) if not field.attribute]
        names = [name for field in fields for name in {field.name, field.name if field.wrapped else field.item}]
        assert len(names) == len(set(names)) == len(elements_of(model)), model.__name__


@pytest.mark.parametrize(
    ("update", "document"),
    [
        (f'<update kind="{kinds.ENUM_UPDATE}"><path>/phase</path><value>ACCEPTED</value></update>',
         {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}),
        (f'<AbstractUpdate kind="{kinds.STRING_UPDATE}"><path>/p</path><value>12</value></AbstractUpdate>',
         {"kind": kinds.STRING_UPDATE, "path": "/p", "value": "12"}),
        (f'<IntegerValueUpdate kind="{kinds.INTEGER_UPDATE}"><path>/p</path><value>12</value></IntegerValueUpdate>',
         {"kind": kinds.INTEGER_UPDATE, "path": "/p", "value": 12}),
        (f'<update kind="{kinds.DELTA_UPDATE}"><path>/p</path><delta>-3</delta><units>GiB</units></update>',
         {"kind": kinds.DELTA_UPDATE, "path": "/p", "delta": -3, "units": "GiB"}),
    ],
)  # fmt: skip
def test_all_kinds_of_updates_are_read(update: str, document: dict[str, Any]) -> None:
    assert parse(AbstractUpdate, decode_xml(update.encode(), AbstractUpdate)).to_wire() == document


# ── the hints of the standard ────────────────────────────────────────────────────────────────────────────────


def hints(schema: Any, path: str = "") -> dict[str, Any]:
    """Of each schema and property what its hints come to by OpenAPI 3.1, section 4.8.26."""
    found: dict[str, Any] = {}
    for part in schema.get("allOf", ()):
        found |= hints(part, path)
    if "name" in schema.get("xml", {}):
        found[path] = schema["xml"]["name"]
    for name, property_ in schema.get("properties", {}).items():
        hint = property_.get("xml", {})
        if hint.get("attribute"):
            found[f"{path}.{name}"] = "attribute"
        if hint.get("wrapped"):
            found[f"{path}.{name}"] = f"wrapped {hint.get('name', name)}"
        item = property_.get("items", {}).get("xml", {}).get("name", name)
        if item != name:
            found[f"{path}.{name}[]"] = item
    return found


def test_the_hints_of_the_standard_are_those_of_our_description(standard: dict[str, Any] | None) -> None:
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    law = standard["components"]["schemas"]
    lists = {name: schema for name, schema in law.items() if schema.get("type") == "array"}
    ours = schemas()
    for name, schema in law.items():
        for part in (schema, *schema.get("allOf", ())):
            for key, property_ in part.get("properties", {}).items():
                reference = property_.get("$ref", "").rpartition("/")[2]
                if reference in lists:  # our description writes lists in place
                    part["properties"][key] = {**lists[reference], "xml": {}}
        if name in ours and name != "NameValueMap":
            wanted = hints(schema, name)
            assert wanted == {key: value for key, value in hints(ours[name], name).items() if key in wanted}, name


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────

DOCKER = f'<executable kind="{kinds.DOCKER_CONTAINER}">'


@pytest.mark.parametrize(
    ("inside", "element", "words"),
    [
        (f"{DOCKER}<colour>red</colour></executable>", "executable.colour", "no such element. There are: meta, cost"),
        (f"{DOCKER}<imag/></executable>", "executable.imag", "Nearest: image."),
        ("<executabel/>", "executabel", "Nearest: executable."),
        (f"{DOCKER}<kind>x</kind></executable>", "executable.kind", "no such element"),
        ('<executable kind="uri:of-a-site"><gpu/></executable>', "executable.gpu", "travels in JSON or YAML"),
        ("<executable><image/></executable>", "executable.kind", "is missing. It is an attribute: <executable kind"),
        ('<executable kind="x:y" colour="red"/>', "executable.@colour", "no such attribute. There are: kind."),
        ('<preferences xmlns="http://x"/>', "preferences.@xmlns", "Leave namespaces out"),
        ("<preferences><enough><min>1</min></enough></preferences>", "preferences.enough", "not elements"),
        ("<preferences>fastest</preferences>", "preferences", "elements are wanted, not a text"),
        ("<preferences/><preferences/>", "preferences", "stands twice"),
        (f"{DOCKER}</executable>{DOCKER}</executable>", "executable", "stands twice"),
        (f"{DOCKER}<meta><messages><message/></messages><message/></meta></executable>",
         "executable.meta.messages", "both with and without a wrapper"),
        (f"{DOCKER}<meta><messages><note/></messages></meta></executable>",
         "executable.meta.messages.note", "There are: message."),
        ("<preferences><sites_allowed><country>x</country></sites_allowed></preferences>",
         "preferences.sites_allowed.country", "There are: site."),
        ("<preferences><sites_allowed/><sites_allowed/></preferences>", "preferences.sites_allowed", "stands twice"),
        (f"{DOCKER}<environment><A>1</A></environment></executable>",
         "executable.environment.A", 'Write <entry name="A">'),
        (f"{DOCKER}<environment><entry>1</entry></environment></executable>",
         "executable.environment.entry", "an entry has a name"),
        (f'{DOCKER}<environment><entry name="a">1</entry><entry name="a"/></environment></executable>',
         "executable.environment.a", "stands twice"),
        (f'{DOCKER}<environment><entry name="a"><b/></entry></environment></executable>',
         "executable.environment.a", "not elements"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(inside: str, element: str, words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        decode_xml(f"<offers-request>{inside}</offers-request>".encode(), ExecutionRequest)
    assert refusal.value.element == element
    assert words in f"{refusal.value.detail} {refusal.value.remedy}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<offers-response/>", "offers-response: <offers-request> is wanted here."),
        (b'<a:offers-request xmlns:a="b"/>', "Leave namespaces out."),
        (b"<request><offers-request/></request>", "<offers-request> is wanted here"),
    ],
)
def test_another_root_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        decode_xml(body, ExecutionRequest)


def wrong(inside: str) -> BadInput:
    document = decode_xml(f"<offers-request>{inside}</offers-request>".encode(), ExecutionRequest)
    with pytest.raises(BadInput) as refusal:
        parse(ExecutionRequest, document)
    return refusal.value


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (f'<compute kind="{kinds.SIMPLE_COMPUTE}"><memory><min>16GB</min></memory></compute>',
         'compute.memory.min: "16GB": a whole number of GiB is wanted. Write 16.'),
        (f'<compute kind="{kinds.SIMPLE_COMPUTE}"><cores><min>2.0</min></cores></compute>', "compute.cores.min"),
        (f'<cost kind="{kinds.MINMAX_COST}"><max>INF</max></cost>', "costs[0].max: \"INF\": a number is wanted."),
        (f'<cost kind="{kinds.MINMAX_COST}"><max/></cost>', "costs[0].max: \"\": a number is wanted."),
        ("<preferences><failover>yes</failover></preferences>", "preferences.failover: \"yes\": true or false"),
        ("<preferences><preset>fast</preset></preferences>", "Nearest: fastest."),
        ('<data kind="simple-data-resource"/>', f"Write {kinds.SIMPLE_DATA}"),
        ('<data kind="s3"><bucket>b</bucket></data>', "data[0].kind"),
    ],
)  # fmt: skip
def test_wrong_values_are_told_as_in_any_format(inside: str, words: str) -> None:
    assert words in str(wrong(f"{DOCKER}</executable>{inside}"))


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 4000])
def test_numbers_that_no_format_carries_are_refused(digits: str) -> None:
    body = (
        f'<IntegerValueUpdate kind="{kinds.INTEGER_UPDATE}"><path>p</path><value>{digits}</value></IntegerValueUpdate>'
    )
    with pytest.raises(BadInput):
        parse(AbstractUpdate, decode_xml(body.encode(), AbstractUpdate))
    body = f'<cost kind="{kinds.MINMAX_COST}"><max>1e999</max></cost>'
    with pytest.raises(Malformed, match="too large"):
        decode_xml(f"<offers-request>{body}</offers-request>".encode(), ExecutionRequest)


# ── what is read though it is not written so ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inside", "document"),
    [
        ("<messages><message><level>INFO</level></message><message/></messages>",
         {"messages": [{"level": "INFO"}, {}]}),
        ("<messages/>", {"messages": []}),
        (f'<options><options kind="{kinds.STRING_OPTION}"><path>/p</path></options></options>',
         {"options": [{"kind": kinds.STRING_OPTION, "path": "/p"}]}),
        ('<message/><name>n</name><message/>', {"messages": [{}, {}], "name": "n"}),
    ],
)  # fmt: skip
def test_a_wrapper_around_any_list_is_understood(inside: str, document: Any) -> None:
    body = f"<componentmetadata>{inside}</componentmetadata>".encode()
    assert decode_xml(body, ComponentMetadata) == document


def test_white_space_around_words_and_numbers_means_nothing() -> None:
    body = b"<preferences>\n <preset>\n fastest </preset> <enough>\t3\n</enough></preferences>"
    assert decode_xml(body, Preferences) == {"preset": "fastest", "enough": 3}


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_schema_does_not_know_is_left_out() -> None:
    session = {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": {"uuid": "u", "colour": "red"},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "hint": "x"}, "queue": ["a"], "memory": [1]},
        "executable": {"kind": "uri:of-a-site", "meta": {"name": "n"}, "script": {"a": 1}},
        "phase": {"odd": 1},
        "costs": {"odd": 1},
        "data": [None, "odd"],
        "origin": None,
        "_links": {"self": "x"},
    }
    assert encode_xml(session, root_of(AbstractExecutionSession)).decode().partition("\n")[2] == (
        f'<execution kind="{kinds.SCHEDULED_SESSION}"><meta><uuid>u</uuid></meta>'
        '<executable kind="uri:of-a-site"><meta><name>n</name></meta></executable>'
        f'<compute kind="{kinds.SIMPLE_COMPUTE}"><cores><min>1</min></cores></compute></execution>'
    )


def test_characters_that_xml_has_no_form_for_become_the_replacement_character() -> None:
    message = {"message": "a\x00\x1b[31m\x0b\ufffe\ud800 \t\r\n\u2028é\U0001f52d", "values": {'k\x01\n\t"': "<&>"}}
    body = encode_xml(message, root_of(MessageItem))
    assert decode_xml(body, MessageItem) == {
        "message": "a\ufffd\ufffd[31m\ufffd\ufffd\ufffd \t\r\n\u2028é\U0001f52d",
        "values": {'k\ufffd\n\t"': "<&>"},
    }


def test_a_document_of_no_schema_carries_its_types_along() -> None:
    document = {"a": "1", "b": 1, "c": [1.5, True, None, {}], "d": {"entry": [], "x y": "", "xml": " "}}
    assert encode_xml(document, ANSWER).decode().partition("\n")[2] == (
        '<answer><a>1</a><b type="integer">1</b><c type="array"><item type="number">1.5</item>'
        '<item type="boolean">true</item><item type="null"></item><item type="object"></item></c>'
        '<d><entry name="entry" type="array"></entry><entry name="x y"></entry><entry name="xml"> </entry></d></answer>'
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('<entry name="a" type="integer">x</entry>', 'options.a: "x": integer is wanted.'),
        ('<entry name="a" type="int">1</entry>', "Nearest: integer."),
        ('<entry name="a" type="array"><b/></entry>', "options.a.b: no such element. There are: item."),
        ('<entry name="a" type="string"><b/></entry>', "options.a: a text is wanted"),
        ('<entry name="a"><b/><b/></entry>', "options.a.b: stands twice."),
        ('<entry name="a"><b size="1"/></entry>', "options.a.b.@size: no such attribute."),
        ('<entry name="a"><b/>text</entry>', "options.a: elements are wanted"),
    ],
)
def test_what_has_no_schema_is_refused_by_name_too(options: str, words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        decode_xml(f"<site><options>{options}</options></site>".encode(), Registration)
    assert words in str(refusal.value)


def test_a_problem_is_written_as_its_standard_has_it() -> None:
    problem = {"type": "uri:x", "title": "T & U", "status": 400, "more": {"a": [1, "b"]}, "not a name": 1}
    assert encode_xml(problem, PROBLEM).decode().partition("\n")[2] == (
        '<problem xmlns="urn:ietf:rfc:7807"><type>uri:x</type><title>T &amp; U</title><status>400</status>'
        "<more><a><i>1</i><i>b</i></a></more></problem>"
    )


def test_a_type_without_a_form_is_found_when_the_table_is_made() -> None:
    class Pair(tuple[int, int]):
        __slots__ = ()

    with pytest.raises(TypeError, match="no form in XML"):
        form_of(Pair)


# ── what attackers send ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><offers-request>&b;</offers-request>', "<!DOCTYPE"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- > --> <!DOCTYPE a SYSTEM "http://x/a.dtd"><a/>', "<!DOCTYPE"),
        (b"<?a?><!DOCTYPE a><a/>", "<!DOCTYPE"),
        (b"<!doctype html><html/>", "no XML"),
        (b"<offers-request>&b;</offers-request>", "no XML: line 1, column 17: undefined entity"),
        (b"<?xml-stylesheet href='http://x'?><offers-request/>", "processing instructions"),
        (b"<offers-request><?php 1 ?></offers-request>", "line 1, column 17: processing instructions"),
        (b'<?xml version="1.0" encoding="latin-1"?><offers-request/>', "only UTF-8"),
        ('<?xml version="1.0" encoding="UTF-16"?><offers-request/>'.encode("utf-16"), "no UTF-8 at byte 0"),
        ("<!DOCTYPE a><offers-request/>".encode("utf-16-le"), "no XML: U+0000 at byte 1"),
        (b'<a b="1" b="2"/>', "duplicate attribute"),
        (b"<a>" * (DEEPEST + 1), "nested more than 32"),
        (b"<a>" * 80_000, "nested more than 32"),
        (b"<offers-request>" + b"<a/>" * MOST, "more than 10000 elements"),
        (b"<offers-request>&#0;</offers-request>", "no XML"),
        (b"<offers-request>\x01</offers-request>", "no XML"),
        (b"<offers-request>\xff</offers-request>", "no UTF-8 at byte 16"),
        (b"<offers-request>", "no XML: line 1, column 17: no element found"),
        (b"<offers-request/><offers-request/>", "junk after document element"),
        (b"", "no XML"),
        (b"{}", "no XML"),
    ],
)  # fmt: skip
def test_refuses_by_name_and_place(body: bytes, words: str) -> None:
    with pytest.raises(Malformed) as refusal:
        decode_xml(body, ExecutionRequest)
    assert words in refusal.value.detail


def test_a_document_type_may_be_spoken_of() -> None:
    body = b"<message><!-- <!DOCTYPE a> --><message><![CDATA[<!DOCTYPE a [<!ENTITY b 'c'>]>]]></message></message>"
    assert decode_xml(body, MessageItem) == {"message": "<!DOCTYPE a [<!ENTITY b 'c'>]>"}


def test_depth_ends_exactly_at_the_bound() -> None:
    depth = DEEPEST - 4
    inside = '<entry name="a">' + "<b>" * depth + "</b>" * depth + "</entry>"
    body = f"<site><options>{inside}</options></site>"
    assert decode_xml(body.encode(), Registration)["options"]["a"]
    deeper = body.replace("<b></b>", "<b><b><b/></b></b>", 1)
    with pytest.raises(Malformed, match="nested more than"):
        decode_xml(deeper.encode(), Registration)


_BOMBS = """
from broker.api import xmltext
from broker.domain.request import ExecutionRequest, check
from broker.errors import Malformed

built = []
class Counted(xmltext._Element):
    def __init__(self, *args):
        built.append(1)
        super().__init__(*args)
xmltext._Element = Counted
laughs = b"<!DOCTYPE l [<!ENTITY a0 'ha'>" + b"".join(
    b"<!ENTITY a%d '%s'>" % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 99)
) + b"]><offers-request>&a98;</offers-request>"
blowup = b"<!DOCTYPE l [<!ENTITY a '%s'>]><offers-request>%s</offers-request>" % (b"h" * 99_999, b"&a;" * 50_000)
external = b"<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///dev/zero'>]><offers-request>&a;</offers-request>"
for bomb in (laughs, blowup, external, b"<a>" * 80_000, b"<!--" * 60_000, b"<!-- -->" * 30_000 + b"<!DOCTYPE a>"):
    built.clear()
    try:
        xmltext.decode_xml(bomb, ExecutionRequest)
    except Malformed:
        assert len(built) <= xmltext.DEEPEST, len(built)
    else:
        raise SystemExit("taken: " + repr(bomb[:40]))
print("alive")
"""


def test_bombs_are_dropped_after_a_few_elements_and_the_process_lives() -> None:
    done = subprocess.run([sys.executable, "-c", _BOMBS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


def test_every_root_has_its_own_name() -> None:
    assert root_of(ExecutionRequest) == Root("offers-request", ExecutionRequest)
    assert root_of(Preferences).name == "preferences"


# ── the page about it ────────────────────────────────────────────────────────────────────────────────────────

PAGE = Path(__file__).parents[2] / "docs" / "xml.md"
EXAMPLES = re.findall(r"^```xml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_has_an_example_of_each_document_that_is_read() -> None:
    assert [example.split(maxsplit=1)[0].strip("<>") for example in EXAMPLES] == ["offers-request", "update", "site"]


@pytest.mark.parametrize(
    ("example", "model"), list(zip(EXAMPLES, (ExecutionRequest, AbstractUpdate, Registration), strict=True))
)
def test_the_examples_of_the_page_are_read(example: str, model: type[BaseModel]) -> None:
    found = parse(model, decode_xml(example.encode(), model))
    if isinstance(found, ExecutionRequest):
        check(found)
        assert (found.cores, found.memory) == ((4, None), (16, None))
    if isinstance(found, Registration):
        assert found.options == {"verify": True, "names": ["a", "b"]}

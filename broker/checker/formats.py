"""In which formats answers come. Imports the visit, the API's decoders, the standard library's expat."""

from __future__ import annotations

import xml.parsers.expat
from typing import NoReturn

from broker.api.jsontext import decode_json
from broker.api.yamltext import decode_yaml
from broker.checker.findings import Level
from broker.checker.visit import Visit
from broker.checker.web import JSON, Answer
from broker.client.errors import Unreachable
from broker.errors import Malformed

_MEDIA = {"json": JSON, "yaml": "application/yaml", "xml": "application/xml"}
_MOST_YAML = 64 * 1024  # bytes that are read; more takes this machine too long


async def formats(visit: Visit) -> None:
    """The set, read in each of the three formats of the description."""
    if visit.set is None or not visit.set.ident or not visit.dialect.sets:
        return
    for name, media in _MEDIA.items():
        check = f"format.{name}"
        try:
            answer = await visit.web.get(visit.dialect.sets, visit.set.ident, accept=media)
            level, said = _format(name, answer, visit.set.ident)
        except (Unreachable, Malformed) as error:
            level, said = Level.FAIL, str(error)
        visit.findings.say(check, level, *([said] if said else []))


def _format(name: str, answer: Answer, ident: str) -> tuple[Level, str]:
    """Raises Malformed for a body that is not what it is called."""
    other = Level.FAIL if name == "json" else Level.WARN
    if answer.status == 406:
        return other, "406: not written here"
    if answer.status != 200:
        return Level.FAIL, f"answered {answer.said()}"
    if name not in answer.media:
        return other, f"{answer.media or 'no Content-Type'} comes instead"
    if name == "xml":
        root = _root(answer.body)
        return (Level.OK, "") if root == "offers-response" else (Level.WARN, f"its root is {root[:60]}")
    if name == "yaml" and len(answer.body) > _MOST_YAML:
        return Level.NOTE, "too long to be read here"
    document = decode_json(answer.body) if name == "json" else decode_yaml(answer.body)
    same = ident in str(document)
    return (Level.OK, "") if same else (Level.FAIL, "another document than was asked for")


def _root(body: bytes) -> str:
    """The name of the root element. Raises Malformed: no XML, or such as declares entities."""
    names: list[str] = []
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: names.append(name) if not names else None
    parser.EntityDeclHandler = _entity
    parser.StartDoctypeDeclHandler = _entity
    try:
        parser.Parse(body, True)
    except xml.parsers.expat.ExpatError as error:
        raise Malformed(f"the body is no XML: {error}.") from None
    return names[0].rpartition(":")[2]


def _entity(*_: object) -> NoReturn:
    raise Malformed("the XML has a document type, which nobody should read.")

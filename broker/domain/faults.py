"""What pydantic found wrong, told to the person who wrote the document. Imports the domain, pydantic, the errors.

One fault, the first; its dotted path in the caller's own document; what is wanted instead; and, where it can be
guessed, what to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from broker.domain import kinds
from broker.domain.base import Family
from broker.errors import BadInput, UnknownKind

M = TypeVar("M", bound=BaseModel)
Advice = tuple[str, str]  # what is wrong, what to do

_LONGEST = 60  # characters of a value that are quoted back
_GIB = re.compile(r"(?:^|\.)(?:memory|size)\.(?:min|max)$")
_SIZE = re.compile(r"\s*(\d{1,18})\s*(?:[kKMGT]?i?[bB]?)\s*")


def parse(model: type[M], document: Any) -> M:
    """`document` as a `model`; of a family, as the member that its kind names. Raises BadInput.

    Kinds that nobody registered pass, since a site may know them; words that are no URI at all do not.
    """
    if not isinstance(document, dict):
        raise BadInput(f"an object is wanted, not {_shown(document)}.")
    target: type[BaseModel] = model.choose(document.get("kind")) if issubclass(model, Family) else model
    try:
        found = target.model_validate(document)
    except ValidationError as error:
        raise explain(error, target, document) from None
    if _has_bare_kind(document):
        for path, part in _families(found, ""):
            _check_kind(path, part)
    return found  # type: ignore[return-value]  # a member of the family


def explain(error: ValidationError, model: type[BaseModel], document: Mapping[str, Any]) -> BadInput:
    """The first fault of `error`, which validating `document` as `model` raised."""
    first = error.errors(include_url=False)[0]
    path = _dotted(first["loc"])
    if first["type"] == "extra_forbidden":
        detail, remedy = "no such property.", _properties(model, document, first["loc"])
    else:
        detail, remedy = _ADVICE.get(first["type"], _other)(first, path)
    return BadInput(detail, element=path, remedy=remedy)


# ── kinds ────────────────────────────────────────────────────────────────────────────────────────────────────


def _has_bare_kind(document: Any) -> bool:
    """Whether a `kind` anywhere is no URI. Walking the models to see whose it is costs more, and is seldom needed."""
    level = [document]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            kind = item.get("kind")
            if isinstance(kind, str) and ":" not in kind:
                return True
            level.extend(item.values())
        elif isinstance(item, list):
            level.extend(item)
    return False


def _families(value: Any, path: str) -> Iterator[tuple[str, Family]]:
    if isinstance(value, Family):
        yield path, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _families(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _families(item, f"{path}[{index}]")


def _check_kind(path: str, part: Family) -> None:
    if ":" in part.kind or part.kind in part.members:
        return
    element = f"{path}.kind" if path else "kind"
    short = {kinds.short(uri): uri for uri in part.members}
    if part.kind in short:
        raise UnknownKind(f'"{part.kind}": a URI is wanted.', element=element, remedy=f"Write {short[part.kind]}")
    nearest = _nearest(part.kind, short)
    remedy = f"Nearest: {nearest}, {short[nearest]}" if nearest else f"There are: {', '.join(sorted(short))}."
    raise UnknownKind(f'"{part.kind[:_LONGEST]}": unknown.', element=element, remedy=remedy)


# ── one line of advice for each sort of fault ────────────────────────────────────────────────────────────────


def _missing(fault: ErrorDetails, path: str) -> Advice:
    given = fault["input"] if isinstance(fault["input"], Mapping) else {}
    nearest = _nearest(str(fault["loc"][-1]), map(str, given))
    return "is missing.", f'You wrote "{nearest}".' if nearest else ""


def _whole_number(fault: ErrorDetails, path: str) -> Advice:
    unit = " of GiB" if _GIB.search(path) else ""
    value = fault["input"]
    size = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return f"{_shown(value)}: a whole number{unit} is wanted.", f"Write {int(size[1])}." if size else ""


def _number(fault: ErrorDetails, path: str) -> Advice:
    value = fault["input"]
    remedy = f"Write {value.strip()}." if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value) else ""
    return f"{_shown(value)}: a number is wanted.", remedy


def _text(fault: ErrorDetails, path: str) -> Advice:
    value = fault["input"]
    remedy = f'Write "{json.dumps(value)}".' if isinstance(value, bool | int | float) else ""
    return f"{_shown(value)}: a text is wanted.", remedy


def _one_of(fault: ErrorDetails, path: str) -> Advice:
    allowed = re.findall(r"'([^']*)'", str(fault.get("ctx", {}).get("expected", "")))
    return f"{_shown(fault['input'])}: unknown.", in_place_of(str(fault["input"]), allowed)


def _own_words(fault: ErrorDetails, path: str) -> Advice:
    """A ValueError of the domain's: it says what is wanted. Of a whole object nothing need be shown beside."""
    found, said = fault["input"], fault.get("ctx", {}).get("error", "is wrong")
    return f"{said}." if isinstance(found, dict) else f"{_shown(found)}: {said}.", ""


def _bound(words: str, key: str) -> Callable[[ErrorDetails, str], Advice]:
    def advise(fault: ErrorDetails, path: str) -> Advice:
        return f"{_shown(fault['input'])}: {words} {fault.get('ctx', {}).get(key)} is wanted.", ""

    return advise


def _want(words: str) -> Callable[[ErrorDetails, str], Advice]:
    return lambda fault, path: (f"{_shown(fault['input'])}: {words} is wanted.", "")


def _pattern(fault: ErrorDetails, path: str) -> Advice:
    # The models end a pattern so for Python, whose `$` lets a newline pass; a person need not read it.
    pattern = str(fault.get("ctx", {}).get("pattern")).replace("(?!\\n)", "")
    return f"{_shown(fault['input'])}: a text of the form {pattern} is wanted.", ""


def _too_many(fault: ErrorDetails, path: str) -> Advice:
    return f"holds more than {fault.get('ctx', {}).get('max_length')} entries.", "Send them in parts."


def _other(fault: ErrorDetails, path: str) -> Advice:
    return f"{_shown(fault['input'])}: {fault['msg']}.", ""


# The keys: https://docs.pydantic.dev/latest/errors/validation_errors/
_ADVICE: Mapping[str, Callable[[ErrorDetails, str], Advice]] = MappingProxyType(
    {
        "missing": _missing,
        "int_type": _whole_number,
        "int_from_float": _whole_number,
        "int_parsing": _whole_number,
        "float_type": _number,
        "finite_number": _number,
        "string_type": _text,
        "bool_type": _want("true or false"),
        "literal_error": _one_of,
        "enum": _one_of,
        "value_error": _own_words,
        "string_pattern_mismatch": _pattern,
        "greater_than_equal": _bound("at least", "ge"),
        "less_than_equal": _bound("at most", "le"),
        "greater_than": _bound("more than", "gt"),
        "less_than": _bound("less than", "lt"),
        "model_type": _want("an object"),
        "model_attributes_type": _want("an object"),
        "dict_type": _want("an object"),
        "tuple_type": _want("a list"),
        "list_type": _want("a list"),
        "uuid_type": _want("a UUID"),
        "uuid_parsing": _want("a UUID"),
        "too_long": _too_many,
    }
)


def _properties(model: type[BaseModel], document: Any, loc: tuple[int | str, ...]) -> str:
    """What there is in place of the unknown property at `loc`."""
    for step in loc[:-1]:
        if isinstance(step, str):
            model = _inner(_member(model, document).model_fields[step].annotation) or model
        document = document[step]
    allowed = list(_member(model, document).model_fields)
    return in_place_of(str(loc[-1]), allowed)


def _member(model: type[BaseModel], document: Any) -> type[BaseModel]:
    return model.choose(document.get("kind")) if issubclass(model, Family) else model


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────


def _dotted(loc: Iterable[int | str]) -> str:
    path = ""
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def in_place_of(word: str, allowed: Collection[str]) -> str:
    """The remedy for a `word` that is none of `allowed`."""
    nearest = _nearest(word, allowed)
    return (f"Nearest: {nearest}. " if nearest else "") + f"There are: {', '.join(allowed)}."


def _nearest(word: str, among: Iterable[str]) -> str | None:
    known = list(among)
    part = next((name for name in known if len(word) > 2 and name.startswith(word)), None)
    return part or next(iter(get_close_matches(word, known, 1, 0.6)), None)

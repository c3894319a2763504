"""Documents of version 1.0 to and from the port's records. Pure; imports the domain, the ports' records, msgspec.

What comes is untrusted: it is read leniently where only words are lost, and refused where meaning would be guessed.
What each document holds in the field: execution-broker-1.0.openapi.json, and the behaviour of real services.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import ValidationError

from adapters.common.http import Answer, complaint, tidy
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.outcome import Quote, Reason
from broker.domain.quantities import parse_instant
from broker.domain.session import SYNONYMS
from broker.domain.site import Profile
from broker.domain.tame import wild
from broker.errors import SiteError, SiteForgot, SiteMisbehaved
from broker.ports import Held, Logs, Quotes, Result, Sighting

T = TypeVar("T")

# A site's own name of a session goes into addresses and headers, so it may hold nothing that has a meaning there.
_HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:-]{0,199}")
# An honest offer holds some 60 commas. Counting them costs next to nothing, and keeps a document of millions of tiny
# elements from ever becoming millions of objects.
_MOST_COMMAS = 250_000
_MOST_MESSAGES = 50
_MOST_VALUE = 300
_LONGEST_TEMPLATE = 2400  # characters, eight times what is shown
_MOST_OUTCOMES, _MOST_REASONS = 1000, 20
_LARGEST_OFFER = 64 * 1024  # bytes, beside what the request makes it repeat: it is kept, and read again and again
_LARGEST_SESSION = 256 * 1024
_LARGEST_PROFILE = 1024 * 1024
_SURE = 200  # characters from the start that make two texts one
_LARGEST_LOG = 1024 * 1024  # characters
_HOLDER = re.compile(r"\$?\{([^{}]{1,100})\}")
_LONGEST_WAIT = 86400.0
_NOT_ABOUT_REQUEST = (401, 403, 404, 405, 407, 408, 410, 421, 425, 426, 429)
_NULL = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# ── what we send ─────────────────────────────────────────────────────────────────────────────────────────────


def update(phase: str) -> bytes:
    """The one update that version 1.0 services act on, unwrapped."""
    return msgspec.json.encode({"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": phase})


def handles(names: Sequence[str]) -> bytes:
    return msgspec.json.encode({"sessions": names})


# ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────


class _Message(msgspec.Struct):
    level: Any = None
    template: Any = None
    values: Any = None
    message: Any = None


class _Meta(msgspec.Struct):
    uuid: Any = None
    url: Any = None
    messages: msgspec.Raw = _NULL


class _Named(msgspec.Struct):
    uuid: Any = None
    url: Any = None


class _Offer(msgspec.Struct):
    """As little of a session as tells whether it is an offer: this is read for every offer of every site."""

    phase: Any = None
    state: Any = None
    status: Any = None
    meta: _Named | None = None


_OFFER = msgspec.json.Decoder(_Offer)


class _Session(msgspec.Struct):
    phase: Any = None
    state: Any = None
    status: Any = None
    meta: msgspec.Raw = _NULL
    native: Any = None
    promise: msgspec.Raw = _NULL


class _Outcome(msgspec.Struct):
    site: str = ""
    outcome: str = ""
    reasons: list[str] | None = None
    retry_after: float | None = None


class _OfferSet(msgspec.Struct):
    result: Literal["YES", "NO"]
    meta: msgspec.Raw = _NULL
    offers: list[msgspec.Raw] | None = None
    outcomes: msgspec.Raw = _NULL


class _Problem(msgspec.Struct):
    element: str = ""


class _Promise(msgspec.Struct):
    unit: str | None = None
    actual_start: str | None = None
    actual_end: str | None = None
    actual_cost: float | None = None


class _Many(msgspec.Struct):
    sessions: list[msgspec.Raw] = []
    unknown: list[str] = []


class _Result(msgspec.Struct):
    name: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    checksum: str | None = None
    kept_until: str | None = None
    url: str | None = None
    written: bool = False


class _Results(msgspec.Struct):
    results: list[_Result] = []


class _Line(msgspec.Struct):
    uuid: str
    phase: str = ""
    created: str | None = None
    owner: str = ""


class _Lines(msgspec.Struct):
    sessions: list[_Line] = []
    next: str | None = None


class _Logs(msgspec.Struct):
    stdout: str | None = None
    stderr: str | None = None


def quotes(
    body: bytes, place: str, *, most: int, ours: bool, asked: int = 0, retry_after: float | None = None
) -> Quotes:
    """An offer set. `most`: how many offers are taken, from the first; `ours`: a broker of ours wrote it, whose
    outcomes are read; `asked`: bytes of the request, which each offer may repeat. Raises SiteMisbehaved for what is
    no offer set."""
    document = _document(body, _OfferSet, place, "an offer set")
    reasons = [Reason(text) for text in _messages(_meta(document.meta))]
    if ours:
        told, after, heads = _outcomes(document.outcomes)
        # Its messages say the same of each site, for those who do not know outcomes.
        reasons = [reason for reason in reasons if not reason.text.startswith(heads)]
        reasons += [reason for reason in told if reason not in reasons]
        retry_after = after if retry_after is None else retry_after
    if document.result == "NO":
        return Quotes(reasons=tuple(reasons), retry_after=retry_after)
    taken, dropped = _offers(document.offers or [], most, _LARGEST_OFFER + 2 * asked)
    if not taken and not dropped:
        dropped = [Reason("it says YES, but sent no offer.")]
    return Quotes(tuple(taken), (*reasons, *dropped), retry_after)


def declined(answer: Answer, trouble: SiteError) -> Quotes:
    """A question that was answered with an error. A 4xx is the site's way to say NO (an unknown kind is a 400 in the
    field, not a NO), and so is a broker's 508: the request has passed there. Raises `trouble` for everything else,
    and for the 4xx that speak of the address or the hour and not of the request."""
    about_request = 400 <= answer.status < 500 and answer.status not in _NOT_ABOUT_REQUEST
    if answer.status != 508 and not about_request:
        raise trouble
    words = complaint(answer) or f"it answered {answer.status} without words."
    problem = _read(answer.body, _Problem) or _Problem()
    return Quotes(reasons=(Reason(words, element=tidy(problem.element, 100)),))


def sighting(body: bytes, handle: str, place: str, *, ours: bool) -> Sighting | None:
    """One session; None where the document names no phase. `ours`: a broker of ours wrote it, whose additions are
    read. The document itself is left out where it is too large to be kept, or not fit to be handed on. Raises
    SiteMisbehaved for what is no session, and for another session than `handle`."""
    session = _document(body, _Session, place, "a session")
    meta = _meta(session.meta)
    if isinstance(meta.uuid, str) and meta.uuid.lower() != handle.lower() and _url_name(meta.url) != handle:
        raise SiteMisbehaved(f"{place} was asked for {handle} and told of another session.")
    phase = _phase(session)
    if not phase:
        return None
    fit = len(body) <= _LARGEST_SESSION and not wild(body)
    seen = Sighting(phase, body=bytes(body) if fit else None, messages=tuple(_messages(meta)))
    return _with_actuals(seen, session) if ours else seen


def many(body: bytes, names: Sequence[str], place: str) -> Mapping[str, Sighting | SiteError]:
    """The answer to a batched status call of a broker of ours, by handle; every name asked for is there."""
    document = _document(body, _Many, place, "a list of sessions")
    raws = {_name(raw): raw for raw in document.sessions}
    gone = {name.lower() for name in document.unknown}
    return {name: _one_of_many(name, raws.get(name.lower()), name.lower() in gone, place) for name in names}


def _one_of_many(name: str, raw: msgspec.Raw | None, gone: bool, place: str) -> Sighting | SiteError:
    if gone:
        return SiteForgot(f"{place} knows no session {name}.")
    if raw is None:
        return SiteMisbehaved(f"{place} said nothing of session {name}.")
    try:
        return sighting(bytes(raw), name, place, ours=True) or SiteMisbehaved(f"{place} told no phase of {name}.")
    except SiteError as error:
        return error


def profile(body: bytes, broker: str, place: str) -> Profile:
    """The profile of a broker of ours, whose calls are batched and whose acceptances may be repeated."""
    if len(body) > _LARGEST_PROFILE:
        raise SiteMisbehaved(f"{place} describes itself in more than {_LARGEST_PROFILE} bytes.")
    try:
        stated = Profile.model_validate_json(body)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SiteMisbehaved(f"{place} describes itself in a way that cannot be read ({where}).") from None
    return stated.with_(broker=broker, batches=True, repeatable=True)


def logs(body: bytes, place: str) -> Logs:
    document = _document(body, _Logs, place, "logs")
    out, err = (text and text[-_LARGEST_LOG:] for text in (document.stdout, document.stderr))
    return Logs(out, err)


def results(body: bytes, place: str) -> tuple[Result, ...]:
    """Names that would lead out of the folder in which somebody keeps them are left out."""
    document = _document(body, _Results, place, "a list of results")
    return tuple(
        Result(item.name, item.bytes, item.checksum, _instant(item.kept_until), item.url if item.written else None)
        for item in document.results
        if item.name.isprintable() and not {"", ".", ".."} & set(item.name.split("/"))
    )


def held(body: bytes, place: str) -> tuple[list[Held], str | None]:
    """A page of the sessions that a broker of ours has, and the cursor of the next one."""
    document = _document(body, _Lines, place, "a list of sessions")
    lines = [line for line in document.sessions if _safe(line.uuid)]
    return [Held(at.uuid, at.phase, user=_owner(at.owner), since=_instant(at.created)) for at in lines], document.next


def _owner(key: str) -> Owner | None:
    issuer, bar, subject = key.partition("|")
    return Owner(issuer, subject) if bar else None


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────────


def _document(body: bytes, kind: type[T], place: str, what: str) -> T:
    if len(body) > _MOST_COMMAS and body.count(b",") > _MOST_COMMAS:  # counting takes as long as reading an offer
        raise SiteMisbehaved(f"{place} sent more elements than {what} can hold.")
    try:
        body.decode()  # msgspec skips over bad UTF-8 in what it does not decode
        return msgspec.json.decode(body, type=kind)
    except _UNREADABLE:
        raise SiteMisbehaved(f"{place} sent no {what.split(' ', 1)[-1]} that can be read.") from None


def _read(raw: msgspec.Raw | bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except _UNREADABLE:
        return None


def _meta(raw: msgspec.Raw) -> _Meta:
    return _read(raw, _Meta) or _Meta()


def _offers(raws: Sequence[msgspec.Raw], most: int, largest: int) -> tuple[list[Quote], list[Reason]]:
    taken: dict[str, Quote] = {}
    dropped: list[Reason] = []
    for raw in raws[:most]:
        handle, trouble = _judge(raw, taken, largest)
        if trouble:
            dropped.append(Reason(trouble))
        else:
            taken[handle.lower()] = Quote(handle, bytes(raw))
    if len(raws) > most:
        dropped.append(Reason(f"{len(raws) - most} more offers were left out: {most} are taken from a site."))
    return list(taken.values()), _distinct(dropped)


def _judge(raw: msgspec.Raw, taken: Mapping[str, Quote], largest: int) -> tuple[str, str]:
    """The offer's handle, and why it cannot be used, or an empty text."""
    if len(raw) > largest:
        return "", f"an offer was dropped: it is larger than {largest} bytes."
    try:
        session = _OFFER.decode(raw)
    except _UNREADABLE:
        return "", "an offer was dropped: it is no session."
    handle = _handle(session.meta)
    phase = _phase(session)
    if not handle:
        return "", "an offer was dropped: it has neither a uuid nor an address."
    if phase != "OFFERED":
        return "", f"an offer was dropped: its phase is {tidy(phase, 40) or 'missing'}, not OFFERED."
    if handle.lower() in taken:
        return "", "an offer was dropped: its uuid stands twice in one answer."
    return handle, ""


def _name(raw: msgspec.Raw) -> str:
    session = _read(raw, _Offer)
    return _handle(session.meta).lower() if session else ""


def _handle(meta: _Named | None) -> str:
    return (_safe(meta.uuid) or _url_name(meta.url)) if meta else ""


def _safe(name: object) -> str:
    return name if isinstance(name, str) and _HANDLE.fullmatch(name) else ""


def _url_name(url: object) -> str:
    """The last segment of a session's address."""
    if not isinstance(url, str):
        return ""
    return _safe(url.split("?")[0].split("#")[0].rstrip("/").rsplit("/", 1)[-1])


def _phase(session: _Session | _Offer) -> str:
    """Older dialects call it `state` or `status`, and some phases otherwise."""
    for name in (session.phase, session.state, session.status):
        if isinstance(name, str) and name:
            return SYNONYMS.get(name, name)
    return ""


def _messages(meta: _Meta) -> list[str]:
    if not meta.messages or meta.messages == _NULL:
        return []
    items = _read(meta.messages, list[msgspec.Raw]) or []
    read = (_read(raw, _Message) for raw in items[:_MOST_MESSAGES])
    texts = [_filled(message) for message in read if message and message.level != "DEBUG"]
    return list(dict.fromkeys(text for text in texts if text))


def _filled(message: _Message) -> str:
    """The text; in the field `message` and `values` are often missing, and place holders are written `${name}`."""
    if isinstance(message.message, str) and message.message.strip():
        return tidy(message.message)
    text = message.template if isinstance(message.template, str) else ""
    values = message.values if isinstance(message.values, dict) else {}
    # Once, from left to right: what a value holds is text, or some few values could grow to fill the memory.
    return tidy(_HOLDER.sub(lambda holder: _value(values, holder), text[:_LONGEST_TEMPLATE]))


def _value(values: Mapping[Any, Any], holder: re.Match[str]) -> str:
    return str(values[holder[1]])[:_MOST_VALUE] if holder[1] in values else holder[0]


def _outcomes(raw: msgspec.Raw) -> tuple[list[Reason], float | None, tuple[str, ...]]:
    """What a broker of ours says of the sites behind it that offer nothing, the earliest moment to ask again, and how
    its messages about the same begin."""
    listed = (_read(raw, list[_Outcome]) or [])[:_MOST_OUTCOMES]
    outcomes = [item for item in listed if item.outcome != "Offered"]
    reasons = [
        Reason(tidy(f"{item.site}: {reason}"))
        for item in outcomes
        for reason in (item.reasons or [item.outcome])[:_MOST_REASONS]
    ]
    waits = (item.retry_after for item in outcomes if item.retry_after is not None)
    heads = tuple(tidy(f"{item.site} {item.outcome}: {item.reasons[0]}")[:_SURE] for item in outcomes if item.reasons)
    return reasons, min((min(max(0.0, wait), _LONGEST_WAIT) for wait in waits), default=None), heads


def _with_actuals(seen: Sighting, session: _Session) -> Sighting:
    promise = _read(session.promise, _Promise) or _Promise()
    return msgspec.structs.replace(
        seen,
        native=session.native if isinstance(session.native, str) else None,
        began=_instant(promise.actual_start),
        ended=_instant(promise.actual_end),
        cost=promise.actual_cost,
        currency=promise.unit if promise.actual_cost is not None else None,
    )


def _instant(text: str | None) -> float | None:
    try:
        return None if text is None else parse_instant(text).timestamp()
    except ValueError:
        return None


def _distinct(reasons: Iterable[Reason]) -> list[Reason]:
    return list(dict.fromkeys(reasons))

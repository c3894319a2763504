"""What is known of a request's data, for a person: sizes, places, who says so, and what nobody knows. Pure.

Imports the domain alone. Texts of catalogues are defused (`words.plain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from broker.client.facts import schedules
from broker.client.words import count, plain, size, span, wrap
from broker.domain.located_note import LocatedNote, PortionNote
from broker.domain.session import Bounds, LocalityNote, OfferSetResponse, SimpleExecutionSession

_MOST_PLACES = 6
_MOST_UNKNOWN = 5
_ON_NO_STORAGE = "is on no storage that"  # as domain.locality and the catalogue of the kind http say it


def unknowns(response: OfferSetResponse, width: int) -> list[str]:
    """A line for each data resource of which something is not known, or contradicts: what, and why. Of many, the
    first, and how many more there are."""
    told = [(note, said) for note in response.located or () if (said := list(_news(note)))]
    lines = []
    for note, said in told[:_MOST_UNKNOWN]:
        lines += wrap(f"?? {_called(note)}: {plain('; '.join(said))}", width)
    if len(told) > _MOST_UNKNOWN:
        lines += wrap(f"?? and of {count(len(told) - _MOST_UNKNOWN, 'more data resource')}: --explain", width)
    return lines


def volume(response: OfferSetResponse) -> tuple[float, bool] | None:
    """Bytes of all data that is known, and whether that is all of it; None: the answer does not say."""
    if not response.located:
        return None
    return sum(map(least, response.located)), all(note.bytes is not None for note in response.located)


def least(note: LocatedNote) -> float:
    """Bytes of it that are known of."""
    return note.bytes if note.bytes is not None else sum(part.bytes or 0.0 for part in note.portions or ())


def explained(response: OfferSetResponse, width: int, now: datetime) -> list[str]:
    """Each data resource: how large, where, by whose word, and how long ago that was asked."""
    lines = []
    for note in response.located or ():
        lines += wrap(f"{_called(note)}: {', '.join(_facts(note, now))}", width)
        for part in _places(note):
            lines += [f"    {line}" for line in wrap(part, width - 4)]
        for text in (*_missing(note), *(note.notes or ())):
            lines += [f"    {line}" for line in wrap(f"?? {plain(text)}", width - 4)]
    return lines


def moving(session: SimpleExecutionSession) -> str:
    """What an offer's data takes: bytes, from where, how long, how sure; and whose word on the preparing counts. Empty
    where there is nothing to say."""
    note = session.locality
    own = _own_preparing(session)
    if note is None or (not note.sources and not note.held and note.bytes is not None and not note.bytes.pessimistic):
        return ""
    if note.bytes is None:
        return f"moves {f'more than {size(note.least)}' if note.least else 'bytes of unknown number'}{_from(note)}"
    source = _from(note) if note.sources else " from no declared storage"
    text = f"moves {size(note.bytes.expected)}{source}" if note.bytes.pessimistic else f"data is here{_at(note)}"
    if note.bytes.pessimistic or note.recall:
        text += f", {_between(note.staging)}{_sure(note)}"
    if note.recall:
        text += f", of which tapes take {_between(note.recall)}"
    if own is not None:
        text += f"; the site itself counts {span(own)} of preparing into its start, and that leads"
    return text


def _from(note: LocalityNote) -> str:
    return f" from {', '.join(map(plain, note.sources))}" if note.sources else " from nobody knows where"


def _at(note: LocalityNote) -> str:
    cached = f", {size(note.cached)} in its cache" if note.cached else ""
    return (f" at {', '.join(map(plain, note.sources))}" if note.sources else "") + cached


def _sure(note: LocalityNote) -> str:
    by = {
        "measured": f" by {count(note.samples or 0, 'measured transfer')}",
        "estimated": " as links are configured" + (f", and {note.samples} measured" if note.samples else ""),
    }
    return by.get(note.certainty or "", "")


def _between(bounds: Bounds | None) -> str:
    if bounds is None:
        return "nobody knows how long"
    least, most = max(0.0, 2 * bounds.expected - bounds.pessimistic), bounds.pessimistic
    return span(most) if most - least < 1 else f"{span(least)} to {span(most)}"


def _own_preparing(session: SimpleExecutionSession) -> timedelta | None:
    for schedule in schedules(session):
        if schedule.preparing is not None and schedule.preparing.duration is not None:
            return schedule.preparing.duration
    return None


def _called(note: LocatedNote) -> str:
    return f"{plain(note.element)} {plain(note.name or '')}".strip()


def _facts(note: LocatedNote, now: datetime) -> Iterator[str]:
    about = "about " if note.estimated else ""
    yield f"{about}{size(note.bytes)}" if note.bytes is not None else "size not known"
    if note.files is not None and note.files != 1:
        yield count(note.files, "file")
    if note.sized:
        yield f"sized by {plain(note.sized)}"
    if note.placed and note.placed != note.sized:
        yield f"placed by {plain(note.placed)}"
    if note.asof is not None:
        yield f"asked {span(max(0.0, (now - note.asof).total_seconds()))} ago"


def _places(note: LocatedNote) -> Iterator[str]:
    parts = [part for part in note.portions or () if part.replicas]
    for part in parts[:_MOST_PLACES]:
        share = f"{size(part.bytes)} " if part.bytes is not None and len(parts) > 1 else ""
        yield f"{share}at {', '.join(_names(part))}"
    if len(parts) > _MOST_PLACES:
        yield f"and in {count(len(parts) - _MOST_PLACES, 'other place')}"


def _names(part: PortionNote) -> Iterator[str]:
    for replica in (part.replicas or ())[:_MOST_PLACES]:
        yield plain(replica.storage or replica.url or "?") + (" (tape)" if replica.tape else "")
    if len(part.replicas or ()) > _MOST_PLACES:
        yield f"{len(part.replicas or ()) - _MOST_PLACES} more"


def _news(note: LocatedNote) -> Iterator[str]:
    """That an address is on no declared storage is told once, also where that is why nobody was asked."""
    missing = "; ".join(_missing(note))
    known = _ON_NO_STORAGE in missing
    yield from filter(None, [missing])
    yield from (text for text in note.notes or () if not (known and _ON_NO_STORAGE in text))


def _missing(note: LocatedNote) -> Iterator[str]:
    what = [name for name, known in (("size", note.bytes is not None), ("place", bool(note.placed))) if not known]
    if what:
        why = "; ".join(note.unknown or ()) or "nobody says"
        yield f"{' and '.join(what)} not known: {why}"

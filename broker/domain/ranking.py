"""The order of a set's offers: who is first, who is excluded, who is beaten in all. Pure; imports the domain's models.

Each offer is scored by itself (scoring), judged by itself (limits), and compared by a fixed key: so the order of two
offers depends on nothing but the two, the wishes and `now`. Rank numbers, trade-off marks and the words that compare
with the first (explaining) belong to the set.

One offer dominates another when it is no worse in pay, result time, bytes and carbon, expected and pessimistic, and
better in one. A dominated offer never ranks above its dominator: its all-in cannot be lower (scoring), and where the
two are equal, the key goes on with the very criteria that dominance compares, each of which it loses or draws.

This module is the way in to all of ranking: what callers need is named in `__all__`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from broker.domain.explaining import Field, Scale, behind, bounds, excess, field, terms, why_first, why_not_first
from broker.domain.limits import judge
from broker.domain.quantities import format_instant
from broker.domain.scoring import Candidate, Estimate, Score, score
from broker.domain.session import RankingNote
from broker.domain.wishes import PRESETS, Defaults, StandIns, Weights, Wishes, resolve

__all__ = [
    "PRESETS", "Candidate", "Defaults", "Estimate", "Ranked", "Score", "StandIns", "Weights", "Wishes",
    "good", "note", "rank", "resolve", "wire",
]  # fmt: skip


class Ranked(msgspec.Struct, frozen=True):
    """One offer's place. Excluded ones have no rank, but a reason, and a score where one could be worked out.

    `trade_off`: no other offer is known to be better in all. `dominated_by`: the best-ranked session that is, and
    `dominator` its rank. `field`: the set it stands in; excluded offers stand in none."""

    session: str
    rank: int | None
    score: Score | None
    trade_off: bool = False
    dominated_by: str | None = None
    excluded: str | None = None
    dominator: int | None = None
    field: Field | None = None

    @property
    def behind(self) -> str:
        """What it loses by to the first; empty for the first and for the excluded."""
        return self.words()[1]

    @property
    def why(self) -> str:
        """Some twenty characters for a table; for an excluded offer its reason."""
        return self.words()[0]

    def words(self) -> tuple[str, str]:
        """Why and behind, worked out together."""
        if self.score is None or self.field is None:
            return self.excluded or "", ""
        if self.rank == 1:
            return why_first(self.score, self.field), ""
        more = excess(self.score, self.field)
        beaten = self.dominator is not None
        why = f"{self.dominator} beats it in all" if beaten else why_not_first(self.score, self.field, more)
        return why, behind(self.score, self.field, more)


def rank(candidates: Iterable[Candidate], wishes: Wishes, now: float) -> tuple[Ranked, ...]:
    """Best first, the excluded ones last by origin and session. `now`: epoch seconds, kept with the set."""
    passed: list[tuple[Candidate, Score]] = []
    failed: list[tuple[Candidate, Score | None, str]] = []
    for offer in candidates:
        result = score(offer, wishes, now)
        if isinstance(result, str):
            failed.append((offer, None, offer.unfit or result))
        elif (reason := judge(offer, result, wishes, now)) is not None:
            failed.append((offer, result, reason))
        else:
            passed.append((offer, result))
    passed.sort(key=_key)
    failed.sort(key=lambda entry: (entry[0].origin, entry[0].session, entry[0].site, entry[2]))
    out = [Ranked(offer.session, None, result, excluded=reason) for offer, result, reason in failed]
    return (*_placed(passed, wishes), *out)


def good(ranked: Ranked) -> bool:
    """It passes every hard limit."""
    return ranked.excluded is None


def _key(entry: tuple[Candidate, Score]) -> tuple[float | str, ...]:
    offer, result = entry
    return (*result.order, offer.origin, offer.session, offer.site)


def _placed(passed: Sequence[tuple[Candidate, Score]], wishes: Wishes) -> list[Ranked]:
    if not passed:
        return []
    scores = [result for _, result in passed]
    common, better = field(scores, wishes), _dominators(scores)
    return [
        Ranked(
            offer.session,
            i + 1,
            result,
            trade_off=by is None,
            dominated_by=None if by is None else passed[by][0].session,
            dominator=None if by is None else by + 1,
            field=common,
        )
        for i, ((offer, result), by) in enumerate(zip(passed, better, strict=True))
    ]


def _dominators(scores: Sequence[Score]) -> list[int | None]:
    """For each of the ranked scores the place of the best-ranked one that dominates it.

    For each criterion in turn, the offers are gone through from the best, and the bits of one integer gather who came
    before: these are no worse. What all criteria have in common, less the equals, are the dominators. Offers equal in
    a criterion come by place, so of these only the ones ranked above are gathered; no other can dominate."""
    found: list[int | None] = [None] * len(scores)
    criteria = {i: result.criteria for i, result in enumerate(scores) if result.known}
    no_worse = dict.fromkeys(criteria, -1)
    for column in range(8):
        values = {i: row[column] for i, row in criteria.items()}
        seen = 0
        for i in sorted(values, key=values.__getitem__):
            no_worse[i] &= seen
            seen |= 1 << i
    equals: dict[tuple[float, ...], int] = {}
    for i, row in criteria.items():
        better = no_worse[i] & ~equals.get(row, 0)
        found[i] = (better & -better).bit_length() - 1 if better else None
        equals[row] = equals.get(row, 0) | 1 << i
    return found


# ── on the wire ──────────────────────────────────────────────────────────────────────────────────────────────


def note(ranked: Ranked, wishes: Wishes) -> RankingNote:
    """For the wire: money in the wishes' currency, instants in UTC."""
    return RankingNote.model_validate(wire(ranked, wishes))


def wire(ranked: Ranked, wishes: Wishes) -> dict[str, object]:
    """The same, ready for JSON: what `note(…).to_wire()` gives, without the detour by the model."""
    result = ranked.score
    if result is None:
        return {"excluded": ranked.excluded, "why": ranked.why}
    why, lost = ranked.words()
    now, until = result.now, result.until
    found: dict[str, object] = {
        "all_in": bounds(result.all_in, wishes.currency),
        "pay": bounds(result.quoted, wishes.currency),
        "price": bounds(result.quoted_price, wishes.currency),
        "ready": _instant(now + result.delay.expected),
        "result": _instant(now + until.expected),
        "result_latest": _instant(now + until.pessimistic),
        "terms": terms(result, ranked.field.scale if ranked.field else Scale.of(wishes)),
        "why": why,
    }
    if ranked.excluded is not None:
        return found | {"excluded": ranked.excluded}
    found |= {"rank": ranked.rank, "trade_off": ranked.trade_off}
    if ranked.dominated_by is not None:
        found["dominated_by"] = ranked.dominated_by
    return found | {"behind": lost} if lost else found


def _instant(epoch: float) -> str:
    """To the second: estimates are not finer."""
    return _second(round(epoch))


@lru_cache(maxsize=4096)  # offers of one set come at few moments: without, writing them is a quarter of `wire`
def _second(epoch: int) -> str:
    return format_instant(float(epoch))

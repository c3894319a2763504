"""The request's record: every step alone, and any order of steps, keeps what must hold."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain import offerset, session
from broker.domain.identity import Owner, aggregate, members
from broker.domain.offerset import Line, Note, Seen, SessionRecord, SetRecord
from broker.errors import BrokerError, Conflict, NotFound, Unavailable

NOW = 1_800_000_000.0
SET = UUID("7f3a0001-0000-4000-8000-00000000feed")
A, B, C = members(SET, b"\1\2\3\4", set(), 3)


def item(uuid: UUID, site: str = "alba", **known: object) -> SessionRecord:
    return SessionRecord(uuid, site, f"h-{uuid.hex[:4]}", site, **{"expires": NOW + 300, **known})  # type: ignore[arg-type]


def blank(*sites: str) -> SetRecord:
    return SetRecord(SET, Owner("here", "ada"), "ada", "fit", NOW, sites, closes=NOW + 10)


@pytest.fixture
def record() -> SetRecord:
    """Two offers of alba, one of borealis; nobody else was asked."""
    answers = {
        "alba": (Line("Offered", 0.1, 2), [item(A), item(B)]),
        "borealis": (Line("Offered", 0.1, 1), [item(C, "borealis")]),
    }
    return offerset.join(blank("alba", "borealis"), answers, NOW)


def phases(record: SetRecord) -> list[str]:
    return [one.phase for one in record.sessions]


def test_a_record_is_read_back_as_it_was_written(record: SetRecord) -> None:
    claimed = offerset.doubt(offerset.claim(record, A, b"{}", NOW), NOW, "lost")
    assert offerset.decode(offerset.encode(claimed)) == claimed


def test_every_uuid_leads_to_the_same_record() -> None:
    assert len({aggregate(uuid) for uuid in (SET, A, B, C)}) == 1


# ── joining and closing ──────────────────────────────────────────────────────────────────────────────────────


def test_a_set_is_closed_when_all_have_answered(record: SetRecord) -> None:
    assert record.closed
    assert record.pending == ()


def test_a_silent_site_keeps_it_open_until_it_is_closed() -> None:
    waiting = offerset.join(
        blank("alba", "slow"), {"alba": (Line("Declined"), []), "slow": (Line("TimedOut"), [])}, NOW
    )
    assert (waiting.closed, waiting.pending) == (False, ("slow",))
    closed = offerset.close(waiting, NOW)
    assert (closed.closed, closed.pending) == (True, ())
    assert offerset.close(closed, NOW) == closed


def test_a_site_nobody_heard_of_gets_its_line_at_the_close() -> None:
    assert offerset.close(blank("alba"), NOW).outcomes["alba"].outcome == "TimedOut"


def test_what_is_late_takes_the_silences_place_and_nothing_elses() -> None:
    waiting = offerset.join(blank("alba"), {"alba": (Line("TimedOut"), [])}, NOW)
    joined = offerset.join(waiting, {"alba": (Line("Offered", 1.0, 1), [item(A)])}, NOW)
    assert (joined.outcomes["alba"].outcome, phases(joined), joined.closed) == ("Offered", ["OFFERED"], True)
    assert offerset.join(joined, {"alba": (Line("Offered", 1.0, 1), [item(B)])}, NOW) is joined


@pytest.mark.parametrize("close", [True, False], ids=["closed", "claimed"])
def test_what_comes_too_late_is_kept_to_be_released(close: bool) -> None:
    waiting = offerset.join(
        blank("alba", "slow"), {"alba": (Line("Offered"), [item(A)]), "slow": (Line("TimedOut"), [])}, NOW
    )
    past = offerset.close(waiting, NOW) if close else offerset.claim(waiting, A, b"", NOW)
    joined = offerset.join(past, {"slow": (Line("Offered"), [item(C, "slow")])}, NOW)
    assert joined.session(C).phase == "REJECTED"
    assert [one.uuid for one in joined.unreleased()] == [C]


def test_an_excluded_offer_is_released_and_cannot_be_taken() -> None:
    joined = offerset.join(blank("alba"), {"alba": (Line("Offered"), [item(A, excluded="too dear")])}, NOW)
    assert [one.uuid for one in joined.unreleased()] == [A]
    with pytest.raises(Conflict, match="too dear"):
        offerset.claim(joined, A, b"", NOW)


# ── claiming ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_claim_copies_the_offer_and_is_one(record: SetRecord) -> None:
    claimed = offerset.claim(record, A, b'{"a":1}', NOW)
    assert claimed.session(A).offer == b'{"a":1}'
    assert offerset.claim(claimed, A, b"other", NOW) is claimed
    for other in (B, C):
        with pytest.raises(Conflict, match=str(A)):
            offerset.claim(claimed, other, b"", NOW)


@pytest.mark.parametrize(("after", "taken"), [(299.999, True), (300.0, False), (300.001, False)])
def test_nothing_is_claimed_from_its_expiry_on(record: SetRecord, after: float, taken: bool) -> None:
    if taken:
        assert offerset.claim(record, A, b"", NOW + after).claim is not None
    else:
        with pytest.raises(Conflict, match="expired"):
            offerset.claim(record, A, b"", NOW + after)


def test_expiry_leaves_the_claimed_one_alone(record: SetRecord) -> None:
    claimed = offerset.claim(record, A, b"", NOW)
    assert phases(offerset.expire(claimed, NOW + 9999)) == ["OFFERED", "EXPIRED", "EXPIRED"]


def test_unclaiming_makes_it_as_it_was(record: SetRecord) -> None:
    back = offerset.unclaim(offerset.claim(record, A, b"{}", NOW), NOW)
    assert back.claim is None
    assert back.session(A).offer == b""
    assert offerset.claim(back, B, b"", NOW).claim is not None


def test_acceptance_turns_every_other_down(record: SetRecord) -> None:
    taken = offerset.accepted(offerset.claim(record, A, b"", NOW), "ACCEPTED", None, NOW)
    assert phases(taken) == ["ACCEPTED", "REJECTED", "REJECTED"]
    assert {one.uuid for one in taken.unreleased()} == {B, C}
    assert (taken.taken, taken.closed) == (A, True)
    with pytest.raises(Conflict):
        offerset.accepted(taken, "ACCEPTED", None, NOW)


def test_refusal_ends_it_and_frees_the_others(record: SetRecord) -> None:
    free = offerset.refused(offerset.claim(record, A, b"", NOW), "EXPIRED", "sold out", NOW)
    assert phases(free) == ["EXPIRED", "OFFERED", "OFFERED"]
    assert free.session(A).notes[-1].values["reason"] == "sold out"
    assert offerset.claim(free, C, b"", NOW).claim is not None


def test_a_refused_claim_reopens_a_set_that_still_waits() -> None:
    waiting = offerset.join(
        blank("alba", "slow"), {"alba": (Line("Offered"), [item(A)]), "slow": (Line("TimedOut"), [])}, NOW
    )
    free = offerset.refused(offerset.claim(waiting, A, b"", NOW), "REJECTED", "sold out", NOW)
    assert (free.closed, free.pending) == (False, ("slow",))
    joined = offerset.join(free, {"slow": (Line("Offered"), [item(C, "slow")])}, NOW)
    assert joined.session(C).phase == "OFFERED"


def test_doubt_never_turns_back_from_fencing(record: SetRecord) -> None:
    fenced = offerset.doubt(offerset.claim(record, A, b"", NOW), NOW, "lost", fencing=True)
    again = offerset.doubt(fenced, NOW, "still")
    assert again.claim is not None
    assert (again.claim.state, again.claim.tries) == ("fencing", 2)


# ── timers ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_state_has_the_timers_that_bring_it_on(record: SetRecord) -> None:
    claimed = offerset.claim(record, A, b"", NOW, within=30.0)
    taken = offerset.accepted(claimed, "ACCEPTED", None, NOW)
    over = offerset.released(offerset.followed(taken), [B, C], NOW)
    assert offerset.timers(blank("alba")) == {"close": NOW + 10}
    assert offerset.timers(record) == {"expire": NOW + 300}
    assert offerset.timers(claimed) == {"expire": NOW + 300, "claim": NOW + 30}
    assert offerset.timers(offerset.doubt(claimed, NOW + 5, "lost"))["claim"] == NOW
    assert offerset.timers(taken) == {"release": 0.0, "follow": 0.0}
    assert offerset.timers(over) == {}
    assert offerset.timers(offerset.expire(record, NOW + 301)) == {"release": 0.0}


# ── what sites show ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def taken(record: SetRecord) -> SetRecord:
    return offerset.accepted(offerset.claim(record, A, b"", NOW), "ACCEPTED", None, NOW)


def test_seeing_nothing_new_changes_nothing(taken: SetRecord) -> None:
    seen = offerset.see(taken, A, Seen("RUNNING", native="7", messages=("warm",)), NOW)
    assert offerset.see(seen, A, Seen("RUNNING", native="7", messages=("warm",)), NOW + 9) is seen


PHASES = [str(phase) for phase in session.SessionPhase] + [*session.SYNONYMS, "DREAMING", ""]


@given(st.lists(st.sampled_from(PHASES), max_size=12))
def test_no_order_of_sightings_takes_a_reader_back(words: list[str]) -> None:
    answers = {"alba": (Line("Offered"), [item(A)])}
    record = offerset.claim(offerset.join(blank("alba"), answers, NOW), A, b"", NOW)
    record = offerset.accepted(record, "ACCEPTED", None, NOW)
    shown = [record.session(A).phase]
    for word in words:
        record = offerset.see(record, A, Seen(word), NOW)
        phase = record.session(A).phase
        if phase != shown[-1]:
            assert shown[-1] not in session.TERMINAL
            assert session.forward(shown[-1], phase)
            shown.append(phase)
    assert not {"REJECTED", "EXPIRED", "OFFERED", "INITIAL"} & set(shown)


def test_the_messages_kept_are_the_first_and_the_last(taken: SetRecord) -> None:
    for n in range(200):
        taken = offerset.note(taken, A, Note(NOW + n, "uri:x", "{n}", {"n": str(n)}))
    kept = [note.values["n"] for note in taken.session(A).notes]
    assert len(kept) == offerset.NOTES_KEPT
    assert (kept[0], kept[-1]) == ("0", "199")


def test_rejecting_is_idempotent_and_not_for_what_is_taken(record: SetRecord, taken: SetRecord) -> None:
    once = offerset.reject(record, B, NOW)
    assert offerset.reject(once, B, NOW) is once
    with pytest.raises(Conflict) as caught:
        offerset.reject(taken, A, NOW)
    assert caught.value.remedy == "Cancel it instead."
    with pytest.raises(NotFound):
        offerset.reject(record, SET, NOW)


def test_giving_up_leaves_a_failed_session_with_the_reasons(record: SetRecord) -> None:
    uuid = members(SET, b"\7\7\7\7", {A, B, C}, 1)[0]
    over = offerset.give_up(record, uuid, ["alba: sold out"], NOW)
    assert phases(over) == ["REJECTED", "REJECTED", "REJECTED", "FAILED"]
    assert uuid not in {one.uuid for one in over.unreleased()}


# ── any order ────────────────────────────────────────────────────────────────────────────────────────────────

Step = Callable[[SetRecord, float], SetRecord]
STEPS: dict[str, Step] = {
    "claim A": lambda r, now: offerset.claim(r, A, b"", now),
    "claim C": lambda r, now: offerset.claim(r, C, b"", now),
    "accepted": lambda r, now: offerset.accepted(r, "ACCEPTED", None, now),
    "refused": lambda r, now: offerset.refused(r, "REJECTED", "no", now),
    "unclaim": lambda r, now: offerset.unclaim(r, now),
    "doubt": lambda r, now: offerset.doubt(r, now, "lost"),
    "fence": lambda r, now: offerset.doubt(r, now, "lost", fencing=True),
    "reject B": lambda r, now: offerset.reject(r, B, now),
    "late": lambda r, now: offerset.join(r, {"slow": (Line("Offered"), [item(C, "slow")])}, now),
    "close": offerset.close,
    "expire": offerset.expire,
    "released": lambda r, now: offerset.released(r, [one.uuid for one in r.unreleased()], now),
    "runs": lambda r, now: offerset.see(r, A, Seen("RUNNING"), now) if r.taken == A else r,
    "ends": lambda r, now: offerset.see(r, r.taken, Seen("COMPLETED"), now) if r.taken else r,
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.floats(0, 120)), max_size=25))
def test_any_order_of_steps_keeps_the_rules(steps: list[tuple[str, float]]) -> None:
    first = {"alba": (Line("Offered"), [item(A), item(B)]), "slow": (Line("TimedOut"), [])}
    record, now = offerset.join(blank("alba", "slow"), first, NOW), NOW
    for name, seconds in steps:
        before, now = record, now + seconds
        try:
            record = STEPS[name](record, now)
        except BrokerError:
            continue
        _rules(before, record)
    finished = offerset.expire(offerset.close(record, now), now + 1e6)
    busy = finished.claim.session if finished.claim else None
    assert all(one.phase != "OFFERED" for one in finished.sessions if one.uuid != busy)


def _rules(before: SetRecord, after: SetRecord) -> None:
    assert sum(session.taken(one.phase) for one in after.sessions) <= 1
    if before.taken:
        assert after.taken == before.taken
    for old in before.sessions:
        new = after.session(old.uuid).phase
        assert new == old.phase or session.forward(old.phase, new)
    if before.closed and not (before.claim and not after.claim):
        assert after.closed
    for one in after.unreleased():
        assert "release" in offerset.timers(after), one
    if after.claim and after.claim.state != "taken":
        assert after.session(after.claim.session).phase == "OFFERED"
        assert "claim" in offerset.timers(after)


# ── what outlives it ─────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_set_of_which_nothing_was_taken_nothing_is_left(record: SetRecord) -> None:
    ended = offerset.expire(offerset.close(record, NOW), NOW + 1e6)
    ended = offerset.released(ended, [one.uuid for one in ended.unreleased()], NOW + 1e6)
    assert not offerset.over(record)
    assert offerset.over(ended)
    assert offerset.reduced(ended) is None


def test_a_set_is_reduced_once(record: SetRecord) -> None:
    taken = offerset.accepted(offerset.claim(record, A, b"{}", NOW), "ACCEPTED", None, NOW)
    ended = offerset.see(taken, A, Seen("COMPLETED", body=b"{}"), NOW)
    small = offerset.reduced(ended)
    assert small is not None
    assert [(one.uuid, one.offer, one.body) for one in small.sessions] == [(A, b"", None)]
    assert small.taken == A
    assert set(small.outcomes) == set(small.sites) == {small.session(A).site}
    assert offerset.reduced(small) is small


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_says_which_schema_it_was_written_by(record: SetRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offerset.decode(offerset.encode(record)) == record
    monkeypatch.setattr(offerset, "SCHEMA", 2)
    later = offerset.encode(record)
    assert offerset.decode(later).schema == 2
    monkeypatch.setattr(offerset, "SCHEMA", 1)
    with pytest.raises(Unavailable, match="written by a newer broker"):
        offerset.decode(later)


def test_a_newer_record_is_refused_whatever_else_it_holds(record: SetRecord) -> None:
    whole = {**msgspec.msgpack.decode(offerset.encode(record)), "schema": 7, "sessions": "otherwise"}
    with pytest.raises(Unavailable, match=r"written by a newer broker \(its schema is 7"):
        offerset.decode(msgspec.msgpack.encode(whole))


@pytest.mark.parametrize("damaged", [b"", b"\xc1", b"\x80", b"text"])
def test_what_is_no_record_is_called_damaged(damaged: bytes) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        offerset.decode(damaged)

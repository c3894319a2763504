"""Accepting, releasing, watching and changing sessions at plain 1.0 sites, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import aiohttp
import msgspec
import pytest

from adapters.ivoa import translate
from adapters.ivoa.adapter import plugin
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.ports import Logs, Order, Planner, Sighting
from broker.services.clock import SystemClock
from broker.testing.asks import ask, order
from broker.testing.resources import planner, shared_http
from broker.testing.site import FakeSite

CLOCK = SystemClock()
Make = Callable[[FakeSite], Planner]


def soon(seconds: float = 3.0) -> Deadline:
    return Deadline.after(seconds, CLOCK.monotonic())


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    async with FakeSite("alba", offers=3) as site:
        yield site


@pytest.fixture
def asked(site: FakeSite, http: aiohttp.ClientSession) -> Planner:
    return planner(plugin, site.url, http, CLOCK)


async def orders(planner: Planner) -> list[Order]:
    set_ = uuid4()
    return [order(quote, set=set_) for quote in (await planner.quote(ask(CLOCK))).quotes]


async def one(planner: Planner) -> Order:
    return (await orders(planner))[0]


# ── accepting ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_acceptance_is_one_post_and_needs_no_reading_back(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    seen = await asked.accept(wish, soon())
    assert seen.phase == "ACCEPTED"
    assert seen.body is not None
    assert msgspec.json.decode(seen.body)["meta"]["uuid"] == wish.handle
    assert site.executions == {wish.handle: 1}
    sent = site.seen("accept")[0]
    assert sent.path == f"/sessions/{wish.handle}"
    assert sent.json() == {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}
    assert not site.seen("status")


@pytest.mark.parametrize(
    "fault", ["after:phase:OFFERED", "after:empty", "after:wrong-type", "after:garbage", "after:bad-utf8"]
)
async def test_200_is_not_trusted_and_the_session_is_read_back(site: FakeSite, asked: Planner, fault: str) -> None:
    wish = await one(asked)
    site.behave(accept=fault)
    assert (await asked.accept(wish, soon())).phase == "ACCEPTED"
    assert len(site.seen("accept")) == len(site.seen("status")) == 1
    assert site.executions == {wish.handle: 1}


async def test_a_200_that_changed_nothing_is_no_acceptance(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    site.behave(accept="phase:OFFERED")
    assert (await asked.accept(wish, soon())).phase == "OFFERED"
    assert not site.executions


async def test_a_session_that_was_refused_reads_so(site: FakeSite, asked: Planner) -> None:
    first, second, _ = await orders(asked)
    await asked.accept(first, soon())
    assert (await asked.accept(second, soon())).phase == "REJECTED"
    assert site.executions == {first.handle: 1}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("after:hang", SiteTimeout),
        ("after:drip", SiteTimeout),
        ("after:reset", SiteMisbehaved),
        ("after:reset-in-headers", SiteMisbehaved),
        ("after:reset-in-body", SiteMisbehaved),
        ("after:half-close", SiteMisbehaved),
        ("after:status:500", SiteMisbehaved),
        ("after:status:503", SiteMisbehaved),
        ("after:status:503:7", SiteMisbehaved),
        ("after:status:408", SiteRefused),
        ("after:status:409", SiteRefused),
        ("after:redirect:/elsewhere", SiteMisbehaved),
        ("after:flood", SiteMisbehaved),
        ("after:uuid:8a1f0e6c-0000-4000-8000-000000000001", None),
    ],
)
async def test_doubt_is_never_called_proof(
    site: FakeSite, asked: Planner, fault: str, kind: type[SiteError] | None
) -> None:
    wish = await one(asked)
    site.behave(accept=fault)
    if kind is None:  # the answer told of another session, the reading back of ours
        assert (await asked.accept(wish, soon())).phase == "ACCEPTED"
    else:
        with pytest.raises(kind) as caught:
            await asked.accept(wish, soon(0.4))
        assert caught.value.proof is False
    assert site.executions == {wish.handle: 1}
    assert len(site.seen("accept")) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status:400", SiteRefused),
        ("status:404", SiteRefused),
        ("status:410", SiteRefused),
        ("status:401", SiteForbids),
        ("status:403", SiteForbids),
        ("status:429", SiteBusy),
    ],
)
async def test_a_4xx_to_the_only_send_is_proof(
    site: FakeSite, asked: Planner, fault: str, kind: type[SiteError]
) -> None:
    wish = await one(asked)
    site.behave(accept=fault)
    with pytest.raises(kind) as caught:
        await asked.accept(wish, soon())
    assert caught.value.proof is True
    assert not site.executions
    assert len(site.seen("accept")) == 1


async def test_a_site_that_is_down_is_proof(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    await site.stop()
    with pytest.raises(SiteUnreachable):
        await asked.status([wish], soon())  # which finds out that the connection kept from before is dead
    with pytest.raises(SiteUnreachable) as caught:
        await asked.accept(wish, soon())
    assert caught.value.proof is True


@pytest.mark.parametrize("fault", ["hang", "reset", "status:401", "status:429", "status:500", "status:404", "garbage"])
async def test_no_failure_of_the_reading_back_is_proof(site: FakeSite, asked: Planner, fault: str) -> None:
    wish = await one(asked)
    site.behave(accept="after:empty", status=fault)
    with pytest.raises(SiteError) as caught:
        await asked.accept(wish, soon(0.6))
    assert caught.value.proof is False
    assert site.executions == {wish.handle: 1}


async def test_a_site_that_dies_after_the_acceptance_is_no_proof(
    site: FakeSite, http: aiohttp.ClientSession, asked: Planner
) -> None:
    wish = await one(asked)
    site.behave(accept="after:empty", status="hang")
    acceptance = asyncio.create_task(asked.accept(wish, soon(5.0)))
    await site.arrived("status")
    await site.stop()  # whoever reads again finds nobody: unreachable, which alone would be proof
    with pytest.raises(SiteMisbehaved, match="reading back") as caught:
        await acceptance
    assert caught.value.proof is False


async def test_a_kept_connection_that_has_died_is_no_proof(site: FakeSite, asked: Planner) -> None:
    """The bytes went into it, and nobody can say who read them."""
    wish = await one(asked)
    site.behave(accept="reset")
    with pytest.raises(SiteMisbehaved) as caught:
        await asked.accept(wish, soon())
    assert caught.value.proof is False


async def test_after_a_restart_an_acceptance_first_asks_who_is_there(
    site: FakeSite, http: aiohttp.ClientSession, asked: Planner
) -> None:
    wish = await one(asked)
    fresh = planner(plugin, site.url, http, CLOCK)
    assert (await fresh.accept(wish, soon())).phase == "ACCEPTED"
    assert [seen.operation for seen in site.requests] == ["quote", "profile", "set", "accept"]


async def test_a_site_that_will_not_say_who_it_is_is_taken_for_a_plain_one(
    site: FakeSite, http: aiohttp.ClientSession, asked: Planner
) -> None:
    wish = await one(asked)
    site.behave(profile="hang")
    fresh = planner(plugin, site.url, http, CLOCK)
    assert (await fresh.accept(wish, soon(0.6))).phase == "ACCEPTED"


async def test_an_acceptance_that_is_cancelled_is_not_sent_again(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    site.behave(accept="after:hang")
    acceptance = asyncio.create_task(asked.accept(wish, soon(60)))
    await site.arrived("accept")
    acceptance.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acceptance
    assert len(site.seen("accept")) == 1


# ── releasing and changing ───────────────────────────────────────────────────────────────────────────────────


async def test_a_release_rejects_every_offer(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    await asked.release(wishes, soon())
    assert {session.phase for session in site.sessions.values()} == {"REJECTED"}
    await asked.release(wishes, soon())  # again is the same
    await asked.release([], soon())


async def test_what_a_site_forgot_is_released(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.restart()
    await asked.release(wishes, soon())


async def test_a_release_is_repeated_where_the_connection_was_lost(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.behave(release=["reset", "after:reset"])
    await asked.release(wishes, soon())
    assert {session.phase for session in site.sessions.values()} == {"REJECTED"}


async def test_a_release_that_the_site_ignores_is_an_error(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.behave(release="phase:OFFERED")
    with pytest.raises(SiteRefused, match="OFFERED") as caught:
        await asked.release(wishes, soon())
    assert caught.value.proof is False


async def test_one_failed_release_fails_all_but_the_others_are_made(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.behave(release=["status:500", None, None])
    with pytest.raises(SiteMisbehaved):
        await asked.release(wishes, soon())
    assert sorted(session.phase for session in site.sessions.values()) == ["OFFERED", "REJECTED", "REJECTED"]


async def test_an_update_says_which_phase_is_there_then(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    await asked.accept(wish, soon())
    assert (await asked.update(wish, "REJECTED", soon())).phase == "ACCEPTED"  # refused, and it says so by the phase
    assert (await asked.update(wish, "CANCELLED", soon())).phase == "CANCELLED"
    site.behave(update="status:409")
    assert (await asked.update(wish, "CANCELLED", soon())).phase == "CANCELLED"
    site.behave(update="empty")
    assert (await asked.update(wish, "CANCELLED", soon())).phase == "CANCELLED"


async def test_a_fence_reads_as_refused(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    assert (await asked.update(wish, "REJECTED", soon())).phase == "REJECTED"
    assert (await asked.accept(wish, soon())).phase == "REJECTED"
    assert not site.executions


async def test_updates_fail_as_what_they_are(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    site.behave(update="status:500")
    with pytest.raises(SiteMisbehaved):
        await asked.update(wish, "CANCELLED", soon())
    site.behave(update=None)
    site.restart()
    with pytest.raises(SiteForgot):
        await asked.update(wish, "CANCELLED", soon())


# ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_session_is_looked_at(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    await asked.accept(wishes[0], soon())
    site.advance(wishes[0].handle, "AVAILABLE")
    seen = await asked.status(wishes, soon())
    phases = [entry.phase for wish in wishes if isinstance(entry := seen[wish.session], Sighting)]
    assert phases == ["AVAILABLE", "REJECTED", "REJECTED"]
    assert await asked.status([], soon()) == {}


async def test_a_session_that_is_gone_is_its_own_entry(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    del site.sessions[wishes[1].handle]
    seen = await asked.status(wishes, soon())
    assert isinstance(seen[wishes[1].session], SiteForgot)
    assert isinstance(seen[wishes[0].session], Sighting)


async def test_after_a_restart_a_site_has_forgotten_all(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.restart()
    seen = await asked.status(wishes, soon())
    assert {type(entry) for entry in seen.values()} == {SiteForgot}


async def test_one_sessions_nonsense_is_its_own_entry(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.behave(status=["garbage", None, None])
    seen = await asked.status(wishes, soon())
    assert sorted(type(entry).__name__ for entry in seen.values()) == ["Sighting", "Sighting", "SiteMisbehaved"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("hang", SiteTimeout), ("reset", SiteMisbehaved), ("status:429:9", SiteBusy), ("status:401", SiteForbids)],
)
async def test_a_site_that_cannot_be_asked_at_all_is_an_error(
    site: FakeSite, asked: Planner, fault: str, kind: type[SiteError]
) -> None:
    wishes = await orders(asked)
    site.behave(status=fault)
    with pytest.raises(kind):
        await asked.status(wishes, soon(0.5))


async def test_a_lost_look_is_repeated(site: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    site.behave(status=["reset-in-body", "reset"])
    assert all(isinstance(entry, Sighting) for entry in (await asked.status(wishes, soon())).values())


async def test_an_unknown_phase_comes_verbatim(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    site.behave(status="phase:DREAMING")
    entry = (await asked.status([wish], soon()))[wish.session]
    assert isinstance(entry, Sighting)
    assert entry.phase == "DREAMING"


async def test_version_1_0_has_neither_logs_nor_results(site: FakeSite, asked: Planner) -> None:
    wish = await one(asked)
    assert await asked.logs(wish, soon()) == Logs()
    assert await asked.results(wish, soon()) == ()
    with pytest.raises(SiteForgot):
        async for _ in asked.fetch(wish, "fit.json", soon()):
            pass
    await asked.close()


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("document", "phase"),
    [
        ({"phase": "READY"}, "AVAILABLE"),
        ({"state": "TEARDOWN"}, "RELEASING"),
        ({"status": "EXECUTING"}, "RUNNING"),
        ({"phase": "ACCEPTED", "state": "FAILED"}, "ACCEPTED"),
    ],
)
def test_older_dialects_name_phases_otherwise(document: dict[str, str], phase: str) -> None:
    seen = translate.sighting(msgspec.json.encode(document), "x", "alba", ours=False)
    assert seen is not None
    assert seen.phase == phase


def test_a_plain_sites_word_on_actuals_is_not_taken() -> None:
    document = {
        "phase": "COMPLETED",
        "native": "job-7",
        "promise": {"actual_start": "2026-11-22T14:00:00Z", "actual_cost": 1.5, "unit": "EUR"},
        "meta": {"messages": [{"message": "done"}]},
    }
    plain = translate.sighting(msgspec.json.encode(document), "x", "alba", ours=False)
    ours = translate.sighting(msgspec.json.encode(document), "x", "alba", ours=True)
    assert plain is not None
    assert (plain.native, plain.cost, plain.began, plain.messages) == (None, None, None, ("done",))
    assert ours is not None
    assert (ours.native, ours.cost, ours.currency, ours.began) == ("job-7", 1.5, "EUR", 1795356000.0)


@pytest.mark.parametrize("document", [{}, {"phase": None}, {"phase": 5}, {"phase": ""}])
def test_no_phase_is_no_sighting(document: dict[str, object]) -> None:
    assert translate.sighting(msgspec.json.encode(document), "x", "alba", ours=False) is None

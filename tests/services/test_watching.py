"""Following accepted sessions: one call a site, phases that only go onward, sites that forget, lie or fall silent."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from broker.domain.identity import aggregate
from broker.domain.site import Registration
from broker.errors import SiteForgot, SiteTimeout, Unconfirmed
from broker.ports import Store
from broker.services.watching import FORGOTTEN_FOR, key_of
from broker.testing.bench import Bench, by_site, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails, says


async def taken(bench: Bench) -> UUID:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    await bench.work()
    return best


async def phase(bench: Bench, uuid: UUID) -> str:
    return (await bench.record(uuid)).session(uuid).phase


async def test_a_run_is_followed_to_its_end_and_no_further(
    any_store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    bench = await Bench(any_store, clock, {"alba": alba}).start()
    best = await taken(bench)
    seen = []
    for step in ("WAITING", "PREPARING", "AVAILABLE", "RUNNING", "RELEASING", "COMPLETED"):
        alba.phases[(await bench.record(best)).session(best).handle] = step
        await bench.settle(6)
        seen.append(await phase(bench, best))
    assert seen == ["WAITING", "PREPARING", "AVAILABLE", "RUNNING", "RELEASING", "COMPLETED"]
    assert bench.window.figures().counts["alba"]["COMPLETED"] == 1
    await bench.settle(31 * 86400)  # what was learned of it is forgotten by then
    assert await any_store.next_due() is None
    stored = await any_store.read(key_of("alba"))
    assert stored is not None


@pytest.mark.parametrize("word", ["ACCEPTED", "WAITING", "OFFERED", "DREAMING", "INITIAL", ""])
async def test_no_reader_sees_a_phase_go_back(bench: Bench, alba: ScriptedSite, word: str) -> None:
    best = await taken(bench)
    handle = (await bench.record(best)).session(best).handle
    alba.phases[handle] = "RUNNING"
    await bench.settle(6)
    alba.steps["status"] = [says(word) for _ in range(3)]
    await bench.settle(11)
    item = (await bench.record(best)).session(best)
    assert item.phase == "RUNNING"
    words = [note for note in item.notes if note.kind == "uri:phase-at-site"]
    assert [note.values["phase"] for note in words] == [word]
    alba.phases[handle] = "COMPLETED"
    await bench.settle(20)
    assert await phase(bench, best) == "COMPLETED"


@pytest.mark.parametrize("word", ["REJECTED", "EXPIRED"])
async def test_a_run_that_its_site_calls_refused_has_failed(bench: Bench, alba: ScriptedSite, word: str) -> None:
    """It was accepted once: no reader may be told that it never was."""
    best = await taken(bench)
    alba.phases[(await bench.record(best)).session(best).handle] = word
    await bench.settle(6)
    record = await bench.record(best)
    assert (record.session(best).phase, record.taken) == ("FAILED", best)
    assert record.session(best).notes[-1].values["phase"] == word
    assert not record.unreleased()


async def test_nothing_follows_the_end(bench: Bench, alba: ScriptedSite) -> None:
    best = await taken(bench)
    handle = (await bench.record(best)).session(best).handle
    alba.phases[handle] = "COMPLETED"
    await bench.settle(10)
    alba.phases[handle] = "RUNNING"
    await bench.settle(60)
    assert await phase(bench, best) == "COMPLETED"


async def test_nothing_is_written_unless_something_changed(bench: Bench, alba: ScriptedSite) -> None:
    best = await taken(bench)
    await bench.settle(6)
    key = str(best.hex[8:])
    before = await bench.store.read(key)
    await bench.settle(60)
    after = await bench.store.read(key)
    assert before is not None
    assert before == after
    assert len(alba.calls("status")) > 5


async def test_many_runs_of_one_site_are_asked_for_in_one_call(
    store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    bench = await Bench(store, clock, {"alba": alba}).start()
    sessions = [await taken(bench) for _ in range(5)]
    batches: list[int] = []
    entry = bench.sites.entry("alba")
    asked = entry.planner.status

    async def counting(orders: object, deadline: object) -> object:
        batches.append(len(orders))  # type: ignore[arg-type]
        return await asked(orders, deadline)  # type: ignore[arg-type]

    entry.planner.status = counting  # type: ignore[method-assign, assignment]
    await bench.settle(11)
    assert max(batches) == 5
    alba.all_over()
    await bench.settle(11)
    assert {await phase(bench, uuid) for uuid in sessions} == {"COMPLETED"}


async def test_a_silent_site_is_asked_again_and_nothing_is_said_to_be_lost(bench: Bench, alba: ScriptedSite) -> None:
    best = await taken(bench)
    alba.steps["status"] = [fails(SiteTimeout("down")) for _ in range(50)]
    await bench.settle(120)
    item = (await bench.record(best)).session(best)
    assert (item.phase, item.lost_since) == ("ACCEPTED", None)
    alba.steps["status"].clear()
    alba.all_over()
    await bench.settle(120)
    assert await phase(bench, best) == "COMPLETED"


async def test_a_site_that_forgot_may_remember(bench: Bench, alba: ScriptedSite) -> None:
    best = await taken(bench)
    kept = dict(alba.phases)
    alba.forget()
    await bench.settle(60)
    item = (await bench.record(best)).session(best)
    assert (item.phase, item.lost_since is not None) == ("ACCEPTED", True)
    assert item.notes[-1].kind == "uri:site-forgot"
    alba.phases.update(kept)
    await bench.settle(60)
    assert (await bench.record(best)).session(best).lost_since is None


async def test_what_a_site_has_forgotten_for_long_has_failed(
    store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    site = Registration(name="alba", url="http://x/", poll=300)
    bench = await Bench(store, clock, {"alba": alba}, registrations={"alba": site}).start()
    best = await taken(bench)
    alba.forget()
    await bench.settle(FORGOTTEN_FOR - 300)
    assert await phase(bench, best) == "ACCEPTED"
    await bench.settle(1000)
    assert await phase(bench, best) == "FAILED"


async def test_where_a_restart_ends_the_jobs_forgotten_is_failed(
    store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    site = Registration(name="alba", url="http://x/", restart_ends_jobs=True)
    bench = await Bench(store, clock, {"alba": alba}, registrations={"alba": site}).start()
    best = await taken(bench)
    alba.forget()
    await bench.settle(10)
    assert await phase(bench, best) == "FAILED"
    assert await store.next_due() is None


async def test_one_forgotten_session_does_not_hide_the_others(bench: Bench, alba: ScriptedSite) -> None:
    first, second = await taken(bench), await taken(bench)
    del alba.phases[(await bench.record(first)).session(first).handle]
    alba.all_over()
    await bench.settle(20)
    assert (await phase(bench, first), await phase(bench, second)) == ("ACCEPTED", "COMPLETED")


async def test_messages_and_the_native_name_are_kept_once(bench: Bench, alba: ScriptedSite) -> None:
    best = await taken(bench)
    alba.messages = ("node 7 is warm",)
    await bench.settle(60)
    item = (await bench.record(best)).session(best)
    assert item.native == f"job-{item.handle}"
    assert [note.values["text"] for note in item.notes if note.kind == "uri:site-message"] == ["node 7 is warm"]


async def test_a_run_of_a_site_registered_no_more_waits_for_it(
    bench: Bench, store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    best = await taken(bench)
    alba.all_over()
    without = await Bench(store, clock, {"borealis": borealis}).start()
    await without.settle(100)
    assert await phase(without, best) == "ACCEPTED"
    again = await Bench(store, clock, {"alba": alba, "borealis": borealis}).start()
    await again.settle(60)
    assert await phase(again, best) == "COMPLETED"


async def test_what_was_cancelled_is_watched_no_more(bench: Bench, store: Store) -> None:
    best = await taken(bench)
    await bench.update(best, "CANCELLED")
    await bench.settle(20)
    assert await store.next_due() is None


async def test_forgetting_in_the_answer_is_no_error_of_the_call(bench: Bench, alba: ScriptedSite) -> None:
    best = await taken(bench)
    alba.steps["status"] = [fails(SiteForgot("404"))]
    await bench.settle(6)
    assert (await bench.record(best)).session(best).lost_since is not None


async def test_what_another_replica_took_off_the_list_is_not_remembered_for_ever(
    bench: Bench, store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    other = await Bench(store, clock, {"alba": alba, "borealis": borealis}).start()
    for n in range(3):
        await taken(bench)
        await bench.settle(6)
        await other.watching.look("watch:alba")
        assert len(other.watching._looks) == 1
        alba.all_over()
        await bench.settle(10)
        assert not bench.watching._looks, n


async def test_a_record_that_cannot_be_read_keeps_nobody_from_the_others(bench: Bench, alba: ScriptedSite) -> None:
    spoilt, sound = [by_site(await bench.ask())["alba"] for _ in range(2)]
    for session_ in (spoilt, sound):
        await bench.accept(session_)
    await bench.work()
    key = aggregate(spoilt)
    stored = await bench.store.read(key)
    assert stored is not None
    await bench.store.write(key, stored.version, b"\xc1")
    alba.all_over()
    await bench.settle(60)
    assert (await bench.record(sound)).session(sound).phase == "COMPLETED"
    newer = await bench.store.read(key)
    assert newer is not None
    await bench.store.write(key, newer.version, stored.record)  # it is mended
    await bench.settle(60)
    assert (await bench.record(spoilt)).session(spoilt).phase == "COMPLETED"


async def test_what_is_on_the_list_already_is_written_there_again_before_it_counts_as_followed(
    bench: Bench, store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    """The first try may have written it where a failover loses it."""
    session_ = by_site(await bench.ask())["alba"]
    await bench.accept(session_)

    class Unheard:
        """A store where no replica confirms the list, twice."""

        tries = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def write(self, key: str, *args: Any, **kwargs: Any) -> bool:
            done = await store.write(key, *args, **kwargs)
            if key.startswith("watch:"):
                self.tries += 1
                if self.tries <= 2:
                    raise Unconfirmed("no replica answered in time.")
            return done

    unheard: Any = Unheard()
    doomed = await Bench(unheard, clock, {"alba": alba}).start()
    for _ in range(2):
        with pytest.raises(Unconfirmed):
            await doomed.watching.follow(aggregate(session_))
        assert not (await bench.record(session_)).claim.followed  # type: ignore[union-attr]  # it is taken
    await doomed.watching.follow(aggregate(session_))
    assert unheard.tries == 3

"""Asking the catalogues: side by side, bounded, kept for a while; what fails is unknown and says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broker.domain import kinds
from broker.domain.data import AbstractDataResource, RucioDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica, fill
from broker.domain.request import ExecutionRequest
from broker.errors import SiteForgot, SiteMisbehaved, SiteUnreachable
from broker.services.locating import Bounds, Known, Locating, Search
from broker.testing.clock import FakeClock

HERE = (Replica("ALBA"),)


class Catalogue:
    """Says what it is told to say: a Located, an error to raise, or an event to wait for."""

    def __init__(self, *, urls: bool = False, **answers: Any) -> None:
        self.answers, self.urls, self.asked = answers, urls, list[str]()
        self.reached = asyncio.Event()

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        if self.urls:
            return next((url for url in urls if url.startswith("https:")), None)
        block = resource.rucio if isinstance(resource, RucioDataResource) else None
        return block.object if block else None

    async def locate(self, name: str, deadline: Deadline) -> Located:
        self.asked.append(name)
        self.reached.set()
        answer = self.answers.get(name.removeprefix("https://x/"), SiteForgot(f"no {name} here."))
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = Located((Portion(5.0, HERE),))
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Located)
        return answer

    async def close(self) -> None: ...


def known(name: str, catalogue: Catalogue, trust: int = 1, **rest: Any) -> Known:
    return Known(name, catalogue, trust, places=not catalogue.urls, sizes=True, **rest)


@pytest.fixture
async def opened(clock: FakeClock) -> AsyncIterator[list[Locating]]:
    made: list[Locating] = []
    yield made
    for locating in made:
        await locating.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def request(*objects: str) -> ExecutionRequest:
    data = [{"kind": kinds.RUCIO_DATA, "rucio": {"scope": "s", "object": name}} for name in objects]
    return ExecutionRequest.model_validate({"executable": {"kind": "uri:python-program-1.0"}, "data": data})


async def search(locating: Locating, asked: ExecutionRequest, clock: FakeClock, seconds: float = 60.0) -> Search:
    return await locating.search(asked, Deadline.after(seconds, clock.monotonic()))


async def test_all_are_asked_and_the_most_trusted_leads(clock: FakeClock, opened: list[Locating]) -> None:
    first = Catalogue(cube=Located((Portion(7.0, HERE),)))
    second = Catalogue(cube=Located((Portion(9.0, (Replica("B"),)),)))
    opened.append(Locating([known("b", second, 2), known("a", first, 1)], clock, Bounds()))
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert (found.bytes, found.sized, found.placed, found.asof) == (7.0, "a", "a", clock.now())
    assert second.asked == ["cube"]
    assert found.notes == ("a says 7 bytes, b 9",)


async def test_an_answer_is_kept_for_a_while_and_then_asked_anew(clock: FakeClock, opened: list[Locating]) -> None:
    catalogue = Catalogue(cube=Located((Portion(7.0, HERE),)))
    opened.append(Locating([known("a", catalogue, keep=100.0)], clock, Bounds()))
    began = clock.now()
    await search(opened[0], request("cube"), clock)
    clock.advance(99.0)
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert (len(catalogue.asked), found.asof) == (1, began)
    clock.advance(2.0)
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert (len(catalogue.asked), found.asof) == (2, clock.now())


async def test_two_that_want_to_know_the_same_ask_once(clock: FakeClock, opened: list[Locating]) -> None:
    gate = asyncio.Event()
    catalogue = Catalogue(cube=gate)
    opened.append(Locating([known("a", catalogue)], clock, Bounds()))
    both = [asyncio.create_task(search(opened[0], request("cube", "cube"), clock)) for _ in range(2)]
    async with asyncio.timeout(5):
        await catalogue.reached.wait()
    gate.set()
    assert [item.bytes for task in both for item in (await task).found()] == [5.0] * 4
    assert catalogue.asked == ["cube"]


async def test_who_wants_no_answer_yet_waits_for_nobody_and_knows_what_is_kept(
    clock: FakeClock, opened: list[Locating]
) -> None:
    catalogue = Catalogue(cube=asyncio.Event(), flat=Located((Portion(7.0, HERE),)))
    opened.append(Locating([known("a", catalogue)], clock, Bounds(patience=600.0)))
    await search(opened[0], request("flat"), clock)
    async with asyncio.timeout(5):
        begun = await opened[0].search(request("cube", "flat"), Deadline.after(3600.0, clock.monotonic()), most=0.0)
    assert [item.bytes for item in begun.found()] == [None, 7.0]


async def test_who_hangs_is_not_waited_for_and_still_counts_later(clock: FakeClock, opened: list[Locating]) -> None:
    gate = asyncio.Event()
    opened.append(Locating([known("a", Catalogue(cube=gate))], clock, Bounds(patience=0.02)))
    begun = await search(opened[0], request("cube"), clock)
    (found,) = begun.found()
    assert (found.bytes, found.unknown) == (None, ("a has not answered yet",))
    gate.set()
    await asyncio.wait(opened[0]._searches, timeout=5)
    assert begun.found()[0].placed == "a"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SiteForgot("no such DID."), "a: no such DID"),
        (SiteUnreachable("no connection."), "a: no connection"),
        (ValueError("bug"), "a: its adapter failed (ValueError)"),
    ],
)
async def test_a_failure_is_a_stated_unknown_and_never_a_zero(
    error: Exception, words: str, clock: FakeClock, opened: list[Locating]
) -> None:
    opened.append(Locating([known("a", Catalogue(cube=error))], clock, Bounds()))
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert (found.bytes, found.placed, found.unknown) == (None, "", (words,))


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf"), 1e30])
async def test_a_size_that_is_none_is_not_known(size: float, clock: FakeClock, opened: list[Locating]) -> None:
    lying = Catalogue(cube=Located((Portion(size, HERE), Portion(2.0, (Replica("B"),)))))
    opened.append(Locating([known("a", lying)], clock, Bounds()))
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert (found.bytes, found.placed, [part.bytes for part in found.portions]) == (None, "a", [None, 2.0])
    assert found.unknown == ("a does not say all of it",)


async def test_a_failure_is_not_asked_again_at_once(clock: FakeClock, opened: list[Locating]) -> None:
    catalogue = Catalogue(cube=SiteUnreachable("no connection."))
    opened.append(Locating([known("a", catalogue)], clock, Bounds(failures=30.0)))
    await search(opened[0], request("cube"), clock)
    await search(opened[0], request("cube"), clock)
    assert len(catalogue.asked) == 1
    clock.advance(31.0)
    await search(opened[0], request("cube"), clock)
    assert len(catalogue.asked) == 2


async def test_who_fails_over_and_over_is_left_alone(clock: FakeClock, opened: list[Locating]) -> None:
    names = [f"c{i}" for i in range(20)]
    catalogue = Catalogue(**{name: SiteMisbehaved("nonsense.") for name in names})
    opened.append(Locating([known("a", catalogue, concurrency=1)], clock, Bounds()))
    found = (await search(opened[0], request(*names), clock)).found()
    assert len(catalogue.asked) == 5
    assert "it failed too often" in found[-1].unknown[0]


async def test_an_address_that_one_finds_is_asked_for_its_size_by_the_next(
    clock: FakeClock, opened: list[Locating]
) -> None:
    places = Catalogue(cube=Located((Portion(None, (Replica(None, "https://x/1"), Replica(None, "https://x/2"))),)))
    sizes = Catalogue(urls=True, **{"2": Located((Portion(8.0),))})
    opened.append(Locating([known("links", places), known("http", sizes, 2)], clock, Bounds()))
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert (found.bytes, found.placed, found.sized) == (8.0, "links", "http")
    assert sizes.asked == ["https://x/1", "https://x/2"]  # the first knew nothing


async def test_what_is_kept_leads_on_as_what_is_asked_does(clock: FakeClock, opened: list[Locating]) -> None:
    """The second to ask knows what the first found out, though nothing of it is asked again."""
    places = Catalogue(cube=Located((Portion(None, (Replica(None, "https://x/1"), Replica(None, "https://x/2"))),)))
    sizes = Catalogue(urls=True, **{"2": Located((Portion(8.0),))})
    opened.append(Locating([known("links", places, 2), known("http", sizes, 1)], clock, Bounds()))
    said = [(await search(opened[0], request("cube"), clock)).found() for _ in range(2)]
    assert said[0][0].bytes == 8.0
    assert said[1] == said[0]
    assert (len(places.asked), len(sizes.asked)) == (1, 2)


async def test_who_was_left_alone_is_asked_as_soon_as_that_is_over(clock: FakeClock, opened: list[Locating]) -> None:
    names = [f"c{i}" for i in range(6)]
    catalogue = Catalogue(**{name: SiteUnreachable("no connection.") for name in names[:5]})
    catalogue.answers[names[5]] = Located((Portion(7.0, HERE),))
    opened.append(Locating([known("a", catalogue, concurrency=1)], clock, Bounds(failures=30.0)))
    (*_, last) = (await search(opened[0], request(*names), clock)).found()
    assert "it failed too often, and is asked again in 1 s" in last.unknown[0]
    clock.advance(1.5)
    (last,) = (await search(opened[0], request(names[5]), clock)).found()
    assert last.bytes == 7.0


async def test_no_request_takes_all_the_places_at_a_catalogue(clock: FakeClock, opened: list[Locating]) -> None:
    """One names a hundred things that take for ever; another's one thing is asked for all the same."""
    slow = {f"c{i}": asyncio.Event() for i in range(100)}
    catalogue = Catalogue(cube=Located((Portion(7.0, HERE),)), **slow)
    opened.append(Locating([known("a", catalogue, concurrency=4)], clock, Bounds(patience=0.05)))
    await search(opened[0], request(*slow), clock)
    assert len(catalogue.asked) == 2
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert found.bytes == 7.0


async def test_a_name_without_end_is_asked_of_nobody(clock: FakeClock, opened: list[Locating]) -> None:
    catalogue = Catalogue()
    opened.append(Locating([known("a", catalogue)], clock, Bounds()))
    (found,) = (await search(opened[0], request("x" * 10_000), clock)).found()
    assert (found.bytes, catalogue.asked) == (None, [])
    assert found.unknown


async def test_a_name_that_is_none_keeps_nobody_else_from_being_asked(clock: FakeClock, opened: list[Locating]) -> None:
    class Broken(Catalogue):
        def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> Any:
            return 5

    good = Catalogue(cube=Located((Portion(7.0, HERE),)))
    opened.append(Locating([known("a", Broken(), 1), known("b", good, 2)], clock, Bounds()))
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert found.bytes == 7.0


async def test_what_nobody_had_time_to_ask_is_asked_by_the_next(
    clock: FakeClock, opened: list[Locating], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.services.locating.QUEUE", 2)
    gate = asyncio.Event()
    catalogue = Catalogue(a=gate, b=gate, c=Located((Portion(7.0, HERE),)))
    opened.append(Locating([known("k", catalogue)], clock, Bounds(patience=0.02)))
    (*_, last) = (await search(opened[0], request("a", "b", "c"), clock)).found()
    assert last.unknown == ("k: too many questions wait for it already",)
    gate.set()
    await asyncio.wait(opened[0]._searches, timeout=5)
    (found,) = (await search(opened[0], request("c"), clock)).found()
    assert found.bytes == 7.0


async def test_a_catalogue_whose_own_task_was_cancelled_has_failed(clock: FakeClock, opened: list[Locating]) -> None:
    class Broken(Catalogue):
        async def locate(self, name: str, deadline: Deadline) -> Located:
            raise asyncio.CancelledError

    opened.append(Locating([known("a", Broken())], clock, Bounds()))
    (found,) = (await search(opened[0], request("cube"), clock)).found()
    assert found.unknown == ("a: its adapter failed (CancelledError)",)


async def test_closing_ends_what_is_asked_and_lets_one_that_fails_not_keep_the_others(clock: FakeClock) -> None:
    class Broken(Catalogue):
        async def close(self) -> None:
            raise ValueError("bug")

    class Closed(Catalogue):
        closed = False

        async def close(self) -> None:
            self.closed = True

    hanging, other = Broken(cube=asyncio.Event()), Closed()
    locating = Locating([known("a", hanging, 1), known("b", other, 2)], clock, Bounds(patience=0.02))
    begun = await search(locating, request("cube"), clock)
    await locating.close()
    assert other.closed
    assert begun.found()[0].bytes is None


async def test_each_answer_is_worked_in_once_whoever_reads(
    clock: FakeClock, opened: list[Locating], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the work would grow with the square of the data resources, and with every site that answers."""
    fillings = 0

    def counted(*args: Any) -> Any:
        nonlocal fillings
        fillings += 1
        return fill(*args)

    monkeypatch.setattr("broker.services.locating.fill", counted)
    names = [f"c{i}" for i in range(100)]
    catalogues = [Catalogue(**{name: Located((Portion(None, HERE),)) for name in names}) for _ in range(3)]
    opened.append(Locating([known(f"k{i}", catalogue, i) for i, catalogue in enumerate(catalogues)], clock, Bounds()))
    done = await search(opened[0], request(*names), clock)
    for _ in range(50):
        assert done.found()[0].placed == "k0"
    assert fillings <= 100 * 8


async def test_only_so_many_of_a_request_are_looked_up(clock: FakeClock, opened: list[Locating]) -> None:
    catalogue = Catalogue(**{name: Located((Portion(1.0, HERE),)) for name in "abc"})
    opened.append(Locating([known("a", catalogue)], clock, Bounds(most=2)))
    found = (await search(opened[0], request("a", "b", "c"), clock)).found()
    assert [item.bytes for item in found] == [1.0, 1.0, None]
    assert found[2].unknown == ("only the first 2 data resources of a request are looked up",)


async def test_what_the_request_states_is_asked_of_nobody(clock: FakeClock, opened: list[Locating]) -> None:
    catalogue = Catalogue()
    opened.append(Locating([known("a", catalogue)], clock, Bounds()))
    stated = {"kind": kinds.SKAO_DATA, "skao": {"datasize": 3, "replicas": [{"rsename": "ALBA"}]}}
    asked = ExecutionRequest.model_validate({"executable": {"kind": "uri:python-program-1.0"}, "data": [stated]})
    (found,) = (await search(opened[0], asked, clock)).found()
    assert (found.bytes, catalogue.asked) == (3.0, [])


async def test_no_more_answers_are_kept_than_allowed(clock: FakeClock, opened: list[Locating]) -> None:
    catalogue = Catalogue(**{name: Located((Portion(1.0, HERE),)) for name in "abc"})
    opened.append(Locating([known("a", catalogue)], clock, Bounds(answers=2)))
    for name in ("a", "b", "a", "c", "a", "b"):  # the least lately used goes first
        await search(opened[0], request(name), clock)
    assert catalogue.asked == ["a", "b", "c", "b"]

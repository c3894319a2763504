"""The catalogue Rucio against a real Rucio: what it says of data, and how it is signed in there."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from adapters.data.rucio import Rucio, RucioOptions, plugin
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.located import Located
from broker.errors import SiteForbids, SiteForgot, SiteTimeout, SiteUnreachable
from broker.plugins import CatalogueResources, Credentials
from broker.services.clock import SystemClock
from broker.testing.asks import wanted
from broker.testing.children import free_port
from broker.testing.program import Caller, Program
from broker.testing.rucio_server import ACCOUNT, PASSWORD, USERNAME, Copy, RucioServer, checksum
from tests.conftest import want_server

CLOCK = SystemClock()
MANY = 700  # files of one dataset, of ten bytes each


@pytest.fixture(scope="module")
def rucio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RucioServer]:
    server = RucioServer(want_server("rucio"), tmp_path_factory.mktemp("rucio"))
    try:
        fill(server.start())
        yield server
    finally:
        server.stop()


def fill(server: RucioServer) -> None:
    server.add_scope("survey")
    server.add_storage("DISK-A", "/data/")
    server.add_storage("DISK-B", "/data/")
    server.add_storage("TAPE-C", "/tape/", tape=True)
    server.add_storage("BARE", "/", reach=False)
    copies = {
        "cube": "DISK-A DISK-B", "raw": "TAPE-C", "both": "TAPE-C DISK-B", "lost": "DISK-A=B", "away": "DISK-A=U",
        "kept": "DISK-A=B DISK-B", "coming": "DISK-A DISK-B=C", "unread": "BARE", "a": "DISK-A", "b": "DISK-A",
        "c": "DISK-B", "empty-file": "DISK-A", "deep/2026/x_1.fits": "DISK-A",
    }  # fmt: skip
    for name, places in copies.items():
        for place in places.split():
            rse, _, state = place.partition("=")
            server.add_copies("survey", [Copy(rse, name, 0 if name == "empty-file" else 1000, state or "A")])
    server.add_copies("survey", [Copy("DISK-A" if i % 7 else "DISK-B", f"file{i:04}", 10) for i in range(MANY)])
    server.add_copies("survey", [Copy("DISK-A", "huge1", 10**12), Copy("DISK-A", "huge2", 10**12)])
    server.add_copies("survey", [Copy("DISK-B", "huge3", 10**9)])
    server.add_collection("survey", "huge", "DATASET", ["huge1", "huge2", "huge3"])
    server.add_collection("survey", "night1", "DATASET", ["a", "b", "raw"])
    server.add_collection("survey", "night2", "DATASET", ["b", "c", "away", "unread"])
    server.add_collection("survey", "nights", "CONTAINER", ["night1", "night2"])
    server.add_collection("survey", "all", "CONTAINER", ["nights"])
    server.add_collection("survey", "deep/all", "DATASET", ["deep/2026/x_1.fits", "lost"])
    server.add_collection("survey", "nothing", "DATASET", [])
    server.add_collection("survey", "many", "DATASET", [f"file{i:04}" for i in range(MANY)])


@asynccontextmanager
async def catalogue(
    url: str, credentials: Credentials | None = None, options: RucioOptions | None = None
) -> AsyncIterator[Rucio]:
    given = credentials or Credentials(USERNAME, PASSWORD)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        resources = CatalogueResources("ska", url, CLOCK, http, given, lambda url: False)
        made = plugin.make(options or RucioOptions(account=ACCOUNT), resources)
        assert isinstance(made, Rucio)
        try:
            yield made
        finally:
            await made.close()


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds, CLOCK.monotonic())


async def ask(server: RucioServer, name: str, options: RucioOptions | None = None) -> Located:
    async with catalogue(server.url, options=options) as rucio:
        return await rucio.locate(f"survey:{name}", soon())


def places(found: Located) -> dict[tuple[str, ...], tuple[float | None, int]]:
    return {tuple(str(r.storage) for r in p.replicas): (p.bytes, p.files) for p in found.portions}


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_has_its_size_its_places_with_addresses_and_its_checksum(rucio: RucioServer) -> None:
    found = await ask(rucio, "cube")

    [portion] = found.portions
    assert (portion.bytes, portion.files) == (1000, 1)
    assert [r.storage for r in portion.replicas] == ["DISK-A", "DISK-B"]
    assert [r.tape for r in portion.replicas] == [False, False]
    assert all(
        r.url and r.url.startswith(f"https://{str(r.storage).lower()}.example.org:8443/data/survey/")
        for r in portion.replicas
    )
    assert found.checksum == ("adler32", checksum("cube"))


async def test_what_lies_on_tape_says_so(rucio: RucioServer) -> None:
    [portion] = (await ask(rucio, "raw")).portions
    assert [(r.storage, r.tape) for r in portion.replicas] == [("TAPE-C", True)]

    [portion] = (await ask(rucio, "both")).portions
    assert [(r.storage, r.tape) for r in portion.replicas] == [("DISK-B", False), ("TAPE-C", True)]


@pytest.mark.parametrize(
    ("name", "where"), [("lost", []), ("away", []), ("kept", ["DISK-B"]), ("coming", ["DISK-A"]), ("unread", [])]
)
async def test_a_copy_that_cannot_be_read_is_no_place_and_the_size_stands(
    rucio: RucioServer, name: str, where: list[str]
) -> None:
    [portion] = (await ask(rucio, name)).portions

    assert portion.bytes == 1000
    assert [r.storage for r in portion.replicas] == where


async def test_a_file_of_no_bytes_has_none(rucio: RucioServer) -> None:
    assert [p.bytes for p in (await ask(rucio, "empty-file")).portions] == [0]


async def test_a_name_may_hold_slashes(rucio: RucioServer) -> None:
    [portion] = (await ask(rucio, "deep/2026/x_1.fits")).portions
    assert portion.bytes == 1000
    assert places(await ask(rucio, "deep/all")) == {("DISK-A",): (1000, 1), (): (1000, 1)}


async def test_what_rucio_takes_for_no_name_is_no_failure_of_rucio(rucio: RucioServer) -> None:
    with pytest.raises(SiteForgot, match=r"knows no survey:no\?such#file%2F&x=1"):
        await ask(rucio, "no?such#file%2F&x=1")


async def test_a_dataset_is_its_files_each_where_it_lies(rucio: RucioServer) -> None:
    found = await ask(rucio, "night1")

    assert places(found) == {("DISK-A",): (2000, 2), ("TAPE-C",): (1000, 1)}
    assert found.checksum is None
    assert not found.estimated


async def test_a_container_is_opened_to_its_files_once_each_and_those_without_a_place_count(rucio: RucioServer) -> None:
    """`b` is in both datasets; Rucio's own list of replicas leaves `away` out."""
    expected = {("DISK-A",): (2000, 2), ("DISK-B",): (1000, 1), ("TAPE-C",): (1000, 1), (): (2000, 2)}

    assert places(await ask(rucio, "nights")) == expected
    assert places(await ask(rucio, "all")) == expected


async def test_a_large_dataset_comes_whole(rucio: RucioServer) -> None:
    found = await ask(rucio, "many")

    assert places(found) == {("DISK-A",): (MANY * 10 / 7 * 6, MANY // 7 * 6), ("DISK-B",): (MANY * 10 / 7, MANY // 7)}


async def test_of_more_files_than_are_read_the_rest_has_a_size_and_no_place(rucio: RucioServer) -> None:
    found = await ask(rucio, "many", RucioOptions(account=ACCOUNT, most_files=70))

    assert places(found)[()] == (MANY * 10 - 700, MANY - 70)
    assert sum(p.bytes or 0 for p in found.portions) == MANY * 10
    assert not found.estimated


async def test_the_rest_of_a_container_is_an_estimate_since_files_may_be_counted_twice(rucio: RucioServer) -> None:
    found = await ask(rucio, "nights", RucioOptions(account=ACCOUNT, most_files=2))

    assert found.estimated
    assert places(found)[()] == (7000 - 2000, 5)


async def test_what_rucio_does_not_know_is_no_failure_of_rucio(rucio: RucioServer) -> None:
    for name in ("survey:no-such", "nobody:cube"):
        async with catalogue(rucio.url) as asked:
            with pytest.raises(SiteForgot, match=f"knows no {name}"):
                await asked.locate(name, soon())


async def test_a_dataset_without_files_has_no_size(rucio: RucioServer) -> None:
    with pytest.raises(SiteForgot, match="knows survey:nothing, but no file in it"):
        await ask(rucio, "nothing")


# ── signing in ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_password_is_said_and_not_shown(rucio: RucioServer) -> None:
    async with catalogue(rucio.url, Credentials(USERNAME, "wrong-and-secret")) as asked:
        with pytest.raises(SiteForbids, match=f"does not sign in {USERNAME} for the account {ACCOUNT}") as caught:
            await asked.locate("survey:cube", soon())
    assert "wrong-and-secret" not in str(caught.value)


async def test_without_an_account_the_names_own_is_taken(rucio: RucioServer) -> None:
    assert places(await ask(rucio, "raw", RucioOptions())) == {("TAPE-C",): (1000, 1)}


async def test_a_token_of_the_operator_is_used_as_it_is(rucio: RucioServer) -> None:
    async with catalogue(rucio.url, Credentials(token=rucio.sign_in())) as asked:
        assert places(await asked.locate("survey:raw", soon())) == {("TAPE-C",): (1000, 1)}


async def test_a_token_that_rucio_does_not_know_is_said_and_not_shown(rucio: RucioServer) -> None:
    async with catalogue(rucio.url, Credentials(token="forged-token-4711")) as asked:
        with pytest.raises(SiteForbids, match="does not take our token") as caught:
            await asked.locate("survey:raw", soon())
    assert "forged" not in str(caught.value)


async def test_a_token_that_has_ended_before_its_time_costs_one_more_log_in(rucio: RucioServer) -> None:
    stale = Credentials(token=rucio.sign_in())
    async with catalogue(rucio.url) as asked, catalogue(rucio.url, stale) as without_password:
        await asked.locate("survey:cube", soon())
        rucio.end_tokens()
        assert len((await asked.locate("survey:cube", soon())).portions) == 1
        with pytest.raises(SiteForbids, match="does not take our token"):
            await without_password.locate("survey:cube", soon())


async def test_many_questions_at_once_are_answered_each_with_its_own(rucio: RucioServer) -> None:
    """Of one server that takes one writer: they share one log-in, which writes."""
    names = [f"file{i:04}" for i in range(24)]
    async with catalogue(rucio.url) as asked:
        found = await asyncio.gather(*(asked.locate(f"survey:{name}", soon()) for name in names))
    assert [f.checksum for f in found] == [("adler32", checksum(name)) for name in names]


# ── when it does not answer ──────────────────────────────────────────────────────────────────────────────────


async def test_no_answer_by_the_deadline_is_a_timeout(rucio: RucioServer) -> None:
    async with catalogue(rucio.url) as asked:
        await asked.locate("survey:cube", soon())
        with rucio.paused(), pytest.raises(SiteTimeout):
            await asked.locate("survey:raw", soon(0.3))
        assert len((await asked.locate("survey:raw", soon())).portions) == 1


async def test_nobody_at_the_address_is_unreachable() -> None:
    async with catalogue(f"http://127.0.0.1:{free_port()}") as asked:
        with pytest.raises(SiteUnreachable, match="connection refused"):
            await asked.locate("survey:cube", soon())


# ── in a broker ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_broker_that_is_told_of_rucio_ranks_first_where_the_files_are(
    rucio: RucioServer, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    sites = {
        name: {"kind": "simulated", "storages": [{"name": rse}]}
        for name, rse in (("far", "DISK-B"), ("near", "DISK-A"))
    }
    broker = Program(
        tmp_path, "net", sites=sites, tariff="free", capacity={"cores": 100, "memory": 100},
        catalogues={"ska": {"kind": "rucio", "url": rucio.url, "credentials": "ska", "timeout": 60}},
        credentials={"ska": {"username": USERNAME, "password_file": str(tmp_path / "password")}},
        locating={"patience": 60},
    )  # fmt: skip
    data = [{"kind": kinds.RUCIO_DATA, "meta": {"name": "n"}, "rucio": {"scope": "survey", "object": "huge"}}]
    try:
        broker.start()
        async with aiohttp.ClientSession() as http:
            answer = await Caller(http)("POST", f"{broker.url}/requests", wanted(data=data))
    finally:
        broker.stop()
    assert answer.status == 303, answer.body
    [told] = answer.json()["located"]
    assert (told["bytes"], told["files"], told["sized"], told["placed"]) == (2.001e12, 3, "ska", "ska")
    moved = [(offer["site"], offer["locality"]["bytes"]["expected"]) for offer in answer.json()["offers"]]
    assert moved == [("near", 1e9), ("far", 2e12)]
    assert PASSWORD not in broker.log.read_text()

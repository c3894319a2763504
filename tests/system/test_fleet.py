"""Three replicas of the program on one real Redis, behind a real balancer: nobody can tell them apart, and none of them
is missed. The balancers are the ones of docs/howto/fleet.md, as they stand there, and `make fleet` is run as a new user
runs it.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen
from uuid import uuid4

import aiohttp
import pytest

from broker.domain import kinds
from broker.domain.session import taken
from broker.settings import load_settings
from broker.testing.children import interruptible
from broker.testing.program import ACCEPT, CANCEL, Caller, Program, above, platform
from broker.testing.redis_server import RedisServer
from broker.testing.site import FakeSite

pytestmark = pytest.mark.system
Until = Callable[..., Awaitable[dict[str, Any]]]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "fleet.md"
SHOWN = ("10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080")  # the replicas there
REJECT = {**ACCEPT, "value": "REJECTED"}
CONTAINER = {"executable": {"kind": kinds.DOCKER_CONTAINER}}  # sites that know the standard alone are asked for these
TOKEN = "one-token-for-all"
USER = {"token_sha256": sha256(TOKEN.encode()).hexdigest(), "roles": ["user", "operator"]}
ROUNDS = 5
WITHIN = 30.0  # seconds after which what we wait for will not come


class Fleet(NamedTuple):
    a: Program
    b: Program
    c: Program

    @property
    def addresses(self) -> list[str]:
        return [replica.url.removeprefix("http://") for replica in self]


@pytest.fixture(scope="module")
def fleet(redis_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Before two sites: alba really runs programs, borealis pretends to."""
    folder = tmp_path_factory.mktemp("fleet")
    redis = RedisServer(folder, "--appendfsync", "always").start()
    room = {"capacity": {"cores": 1000, "memory": 1000}, "policies": {"quotas": {"offers": 1000}}}
    alba = Program(folder, "alba", **platform(folder / "jobs") | room).launch()
    borealis = Program(folder, "borealis", platform={"kind": "simulated"}, tariff="free", **room).launch()
    settings = {
        **above(alba=alba.ready(), borealis=borealis.ready()),
        "store": redis.url,
        "access": {"users": {"ada": USER}},
        "stop": {"drain": 1.5},
    }
    replicas = Fleet(*(Program(folder / name, "radio-net", **settings).launch() for name in "abc"))
    for replica in replicas:
        replica.ready()
    yield replicas
    for program in (*replicas, alba, borealis):
        program.kill()
    redis.kill()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    signed_in = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN), headers=signed_in) as session:
        yield session


def at(replica: Program, url: str) -> str:
    """The same resource at that replica."""
    return replica.url + "/" + url.split("/", 3)[3]


async def ask(call: Caller, base: str, request: Any, **headers: str) -> Any:
    answer = await call("POST", f"{base}/requests", request, **headers)
    assert answer.status == 303, answer.body
    assert answer.json()["result"] == "YES", answer.body
    return answer.json()


def offer_of(offerset: Any, site: str) -> str:
    url: str = next(offer["meta"]["url"] for offer in offerset["offers"] if offer["site"] == site)
    return url


# ── any replica answers any call ─────────────────────────────────────────────────────────────────────────────


async def test_a_run_is_asked_for_read_accepted_and_cancelled_at_different_replicas(
    fleet: Fleet, call: Caller, until: Until, work: Any
) -> None:
    asked = await ask(call, fleet.a.url, work.request())
    read = await call("GET", at(fleet.b, asked["meta"]["url"]))
    uuids = [offer["meta"]["uuid"] for offer in asked["offers"]]
    assert [offer["meta"]["uuid"] for offer in read.json()["offers"]] == uuids
    session = offer_of(asked, "alba")
    assert taken((await call("POST", at(fleet.c, session), ACCEPT)).json()["phase"])
    await work.running()
    assert (await call("POST", at(fleet.a, session), CANCEL)).status == 200
    assert (await until(at(fleet.b, session)))["phase"] == "CANCELLED"
    assert work.started == 1


async def test_a_result_is_fetched_at_a_replica_that_had_no_part_in_it(
    fleet: Fleet, call: Caller, until: Until, work: Any
) -> None:
    work.let_end()
    session = offer_of(await ask(call, fleet.a.url, work.request()), "alba")
    await call("POST", at(fleet.b, session), ACCEPT)
    assert (await until(at(fleet.b, session)))["phase"] == "COMPLETED"
    assert (await call("GET", f"{at(fleet.c, session)}/results/answer.txt")).body == b"42"
    assert (await call("GET", f"{at(fleet.c, session)}/logs")).json()["stdout"] == "hello from the run\n"


async def test_events_at_one_replica_tell_what_another_does(
    fleet: Fleet, call: Caller, http: aiohttp.ClientSession, work: Any
) -> None:
    work.let_end()
    session = offer_of(await ask(call, fleet.a.url, work.request()), "alba")
    phases: list[str] = []
    events = {"Accept": "text/event-stream"}
    async with http.get(f"{at(fleet.b, session)}/events", headers=events) as stream:
        async for line in stream.content:
            if line.startswith(b"data: "):
                phases.append(json.loads(line[6:])["phase"])
                if phases == ["OFFERED"]:
                    await call("POST", at(fleet.a, session), ACCEPT)
    assert (phases[0], phases[-1]) == ("OFFERED", "COMPLETED")
    assert len(phases) > 2  # told when it happened, not once at the end


async def test_a_site_registered_at_one_replica_is_asked_by_the_others(fleet: Fleet, call: Caller) -> None:
    async with FakeSite("late") as site, asyncio.timeout(WITHIN):
        await call("PUT", f"{fleet.a.url}/sites/late", {"kind": "ivoa", "url": site.url})
        while b'"state":"live"' not in (await call("GET", f"{fleet.b.url}/sites/late")).body:  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.05)
        offers = (await ask(call, fleet.b.url, CONTAINER))["offers"]
        assert {offer["site"] for offer in offers} == {"borealis", "late"}
        assert (await call("DELETE", f"{fleet.c.url}/sites/late")).status == 204
        while (await call("GET", f"{fleet.b.url}/sites/late")).status != 404:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)


async def test_each_replica_counts_the_others_among_the_living(fleet: Fleet, call: Caller) -> None:
    async with asyncio.timeout(WITHIN):
        for replica in fleet:
            while (await call("GET", f"{replica.url}/status")).json()["now"]["replicas"] != len(fleet):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.05)


# ── at the same instant ──────────────────────────────────────────────────────────────────────────────────────


async def test_one_key_at_two_replicas_at_once_makes_one_set(fleet: Fleet, call: Caller, make_work: Any) -> None:
    for number in range(ROUNDS):
        name, key = f"keyed-{uuid4().hex[:8]}", f'"{uuid4()}"'
        request = make_work(f"round-{number}").request()
        request["executable"]["meta"]["name"] = name
        sending = (
            call("POST", f"{replica.url}/requests", request, **{"Idempotency-Key": key})
            for replica in (fleet.a, fleet.b)
        )
        answers = await asyncio.gather(*sending)
        made = {answer.json()["meta"]["uuid"] for answer in answers if answer.status == 303}
        assert len(made) == 1
        assert {answer.status for answer in answers} <= {303, 409}  # 409: the other is at it
        again = await call("POST", f"{fleet.c.url}/requests", request, **{"Idempotency-Key": key})
        assert again.json()["meta"]["uuid"] in made
        listed = (await call("GET", f"{fleet.c.url}/offersets?name={name}")).json()["offersets"]
        assert {line["uuid"] for line in listed} == made


async def test_of_two_offers_accepted_at_once_at_two_replicas_one_is_taken(
    fleet: Fleet, call: Caller, make_work: Any
) -> None:
    for number in range(ROUNDS):
        asked = await ask(call, fleet.a.url, make_work(f"round-{number}").request())
        rivals = [at(fleet.a, offer_of(asked, "alba")), at(fleet.b, offer_of(asked, "borealis"))]
        if number % 2:
            rivals.reverse()
        answers = await asyncio.gather(*(call("POST", url, ACCEPT) for url in rivals))
        assert sorted(answer.status for answer in answers) == [200, 409]
        winner = rivals[[answer.status for answer in answers].index(200)]
        offers = (await call("GET", at(fleet.c, asked["meta"]["url"]))).json()["offers"]
        left = [offer["meta"]["uuid"] for offer in offers if taken(offer["phase"])]
        assert left == [winner.rpartition("/")[2]]
        await call("POST", winner, CANCEL)


# ── stopping and starting ────────────────────────────────────────────────────────────────────────────────────


async def test_a_replica_that_is_told_to_stop_says_so_first_and_answers_what_it_was_asked(
    fleet: Fleet, call: Caller
) -> None:
    async with FakeSite("silent") as site, asyncio.timeout(WITHIN):
        await call("PUT", f"{fleet.c.url}/sites/silent", {"kind": "ivoa", "url": site.url})
        site.behave(quote="hang")
        asking = asyncio.create_task(ask(call, fleet.c.url, CONTAINER, **{"Broker-Deadline": "3000"}))
        await site.arrived("quote")
        stopping = asyncio.create_task(asyncio.to_thread(fleet.c.stop))
        while (await call("GET", f"{fleet.c.url}/health/ready")).status != 503:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        during = await call("GET", f"{fleet.c.url}/status")  # whoever does not know it yet is still served
        assert (during.status, (await call("GET", f"{fleet.c.url}/health/live")).status) == (200, 200)
        assert {offer["site"] for offer in (await asking)["offers"]} == {"borealis"}
        assert await stopping == 0
        await call("DELETE", f"{fleet.a.url}/sites/silent")
    await asyncio.to_thread(fleet.c.start)


async def test_a_run_whose_replica_is_killed_is_followed_by_the_others(
    fleet: Fleet, call: Caller, until: Until, work: Any
) -> None:
    session = offer_of(await ask(call, fleet.b.url, work.request()), "alba")
    await call("POST", at(fleet.b, session), ACCEPT)
    await work.running()
    await asyncio.to_thread(fleet.b.kill)
    work.let_end()
    assert (await until(at(fleet.a, session)))["phase"] == "COMPLETED"
    assert work.started == 1
    await asyncio.to_thread(fleet.b.start)


class Stream:
    """People who ask, read what they were offered and give it back, over and over, until they are told to stop."""

    def __init__(self, call: Caller, url: str, work: Any) -> None:
        self._call, self._url, self._work = call, url, work
        self._over = False
        self.failures: list[str] = []
        self.served: Counter[str] = Counter()
        self._people = [asyncio.create_task(self._person()) for _ in range(3)]

    async def stop(self) -> None:
        self._over = True
        await asyncio.gather(*self._people)

    async def _person(self) -> None:
        while not self._over:
            asked = await self._one("POST", "/requests", 303, self._work.request())
            if not asked:
                continue
            await self._one("GET", f"/offersets/{asked['meta']['uuid']}", 200)
            for offer in asked["offers"]:
                await self._one("POST", f"/sessions/{offer['meta']['uuid']}", 200, REJECT)

    async def _one(self, method: str, path: str, wanted: int, body: object = None) -> Any:
        try:
            answer = await self._call(method, self._url + path, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        self.served[answer.headers.get("Served-By", "")] += 1
        if answer.status != wanted:
            self.failures.append(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
            return None
        document = answer.json()
        if document.get("result") == "NO":
            self.failures.append(f"NO: {document['outcomes']}")
        return document


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port


def shown(language: str, places: Mapping[str, str]) -> str:
    """The block of the how-to in that language, with each of `places` put in the place of what stands there."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for there, here in places.items():
        assert there in text
        text = text.replace(there, here)
    return text


def test_the_settings_shown_hold(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(shown("yaml", {}))
    settings = load_settings(file)
    assert settings.store.startswith("redis://")
    assert settings.stop.drain > 1.0  # two looks of the balancer shown beside it


@contextmanager
def running(command: list[str], url: str) -> Iterator[None]:
    """A balancer, from when it takes connections."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(int(WITHIN / 0.05)):
            assert process.poll() is None
            with suppress(OSError), socket.create_connection((host, int(port)), 1.0):
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        yield
    finally:
        process.terminate()  # not killed: nginx ends its workers then
        process.wait(WITHIN)


@contextmanager
def haproxy_before(replicas: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Its address, and that of its own page."""
    url, state = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    places = dict(zip(SHOWN, replicas, strict=True))
    places |= {"*:8080": url.removeprefix("http://"), "127.0.0.1:8404": state.removeprefix("http://")}
    file = folder / "haproxy.cfg"
    file.write_text(shown("haproxy", places))
    with running(["haproxy", "-db", "-f", str(file)], url):
        yield url, state


def balanced(state: str) -> list[dict[str, str]]:
    """What HAProxy says of each replica."""
    with urlopen(f"{state}/;csv", timeout=5.0) as answer:  # noqa: S310 - our own address
        lines = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
    return [line for line in lines if line["pxname"] == "replicas" and line["svname"] != "BACKEND"]


def called(state: str) -> set[str]:
    """The replicas that HAProxy sends calls to."""
    return {line["svname"] for line in balanced(state) if line["status"] == "UP"}


async def test_a_rolling_restart_behind_haproxy_fails_no_call(
    fleet: Fleet, haproxy_server: None, call: Caller, work: Any, tmp_path: Path
) -> None:
    with haproxy_before(fleet.addresses, tmp_path) as (url, state):
        stream = Stream(call, url, work)
        for name, replica in zip(("one", "two", "three"), fleet, strict=True):
            assert await asyncio.to_thread(replica.stop) == 0
            served = stream.served[name]
            await asyncio.to_thread(replica.start)
            async with asyncio.timeout(WITHIN):
                while name not in called(state) or stream.served[name] == served:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.05)
        await stream.stop()
    assert stream.failures == []
    assert stream.served.keys() == {"one", "two", "three"}


@pytest.mark.faults
async def test_a_question_with_a_key_outlives_its_replica_behind_haproxy(
    fleet: Fleet, haproxy_server: None, call: Caller, tmp_path: Path
) -> None:
    request = {"executable": {**CONTAINER["executable"], "meta": {"name": "outlives"}}}
    headers = {"Idempotency-Key": f'"{uuid4()}"', "Broker-Deadline": "20000"}
    async with FakeSite("silent") as site, asyncio.timeout(2 * WITHIN):
        await call("PUT", f"{fleet.a.url}/sites/silent", {"kind": "ivoa", "url": site.url})
        while [(await call("GET", f"{one.url}/sites/silent")).status for one in fleet] != [200, 200, 200]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
        site.behave(quote=["hang"])
        with haproxy_before(fleet.addresses, tmp_path) as (url, state):
            asking = asyncio.create_task(call("POST", f"{url}/requests", request, **headers))
            await site.arrived("quote")
            (asked,) = [line["svname"] for line in balanced(state) if line["scur"] != "0"]
            victim = fleet[("one", "two", "three").index(asked)]
            victim.kill()
            answer = await asking
            while answer.status == 409:  # the key is the dead one's until its lease ends
                await asyncio.sleep(0.2)
                answer = await call("POST", f"{url}/requests", request, **headers)
        assert answer.status == 303
        listed = (
            await call("GET", f"{next(one for one in fleet if one is not victim).url}/offersets?name=outlives")
        ).json()["offersets"]
        assert [line["uuid"] for line in listed] == [answer.json()["meta"]["uuid"]]
        await asyncio.to_thread(victim.start)
        await call("DELETE", f"{fleet.a.url}/sites/silent")


async def test_haproxy_says_when_to_come_back_while_no_replica_is_ready(
    haproxy_server: None, call: Caller, tmp_path: Path
) -> None:
    with haproxy_before([f"127.0.0.1:{free_port()}" for _ in SHOWN], tmp_path) as (url, state):
        async with asyncio.timeout(WITHIN):
            while called(state):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.05)
        answer = await call("GET", f"{url}/status")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 503


@pytest.fixture
def nginx(fleet: Fleet, nginx_server: None, tmp_path: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{free_port()}"
    places = dict(zip(SHOWN, fleet.addresses, strict=True))
    site = shown("nginx", {**places, "listen 8080": f"listen {url.removeprefix('http://')}"})
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"pid {tmp_path}/pid;\ndaemon off;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\nclient_body_temp_path {tmp_path}/body;\nproxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/a;\nuwsgi_temp_path {tmp_path}/b;\nscgi_temp_path {tmp_path}/c;\n{site}}}\n"
    )
    with running(["nginx", "-p", str(tmp_path), "-e", "stderr", "-c", str(file)], url):
        yield url


async def test_nginx_passes_over_a_replica_that_was_killed_and_lets_events_through(
    fleet: Fleet, call: Caller, http: aiohttp.ClientSession, nginx: str, work: Any
) -> None:
    fleet.c.kill()
    served: Counter[str] = Counter()
    for _ in range(6):
        answer = await call("GET", f"{nginx}/status")
        assert answer.status == 200
        served[answer.headers["Served-By"].rpartition(", ")[2]] += 1
    assert served.keys() == set(fleet.addresses[:2])
    session = offer_of(await ask(call, nginx, work.request()), "alba")
    assert session.startswith(nginx)
    async with http.get(f"{session}/events", headers={"Accept": "text/event-stream"}) as stream:
        async for line in stream.content:
            if line.startswith(b"data: "):
                assert json.loads(line[6:])["phase"] == "OFFERED"
                break
    assert (await call("POST", session, REJECT)).json()["phase"] == "REJECTED"
    await asyncio.to_thread(fleet.c.start)


# ── make fleet ───────────────────────────────────────────────────────────────────────────────────────────────

SHOW = ROOT / "deploy" / "fleet" / "fleet.py"


def make_fleet(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SHOW), "--folder", str(folder), *options]
    environment = {**os.environ, **environment}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=180, env=environment)


def alive(folder: Path) -> list[str]:
    """Whatever runs in, or for, the folder."""
    return [text for text in _processes() if str(folder) in text]


def _processes() -> Iterator[str]:
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                told = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
                yield told.replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture(scope="module")
def shown_fleet(
    redis_server: None, haproxy_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """One whole run, and what it left running: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("fleet") / "data"
    try:
        done = make_fleet(folder, "--keep")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        yield folder, done.stdout
    finally:
        make_fleet(folder, "--stop")


def test_the_fleet_that_is_shown_loses_nothing(shown_fleet: tuple[Path, str]) -> None:
    folder, text = shown_fleet
    assert len(re.findall(r"^── \d\. ", text, re.MULTILINE)) == 6
    tags = re.findall(r"^(?:one|two|three) +(\"\S+\") +OFFERED, OFFERED, OFFERED$", text, re.MULTILINE)
    assert (len(tags), len(set(tags))) == (3, 1)
    calls = re.search(r"^(\d+) calls \(one (\d+), three (\d+), two (\d+)\), 0 failed\.$", text, re.MULTILINE)
    assert calls
    assert int(calls[1]) == sum(map(int, calls.groups()[1:]))
    told = re.findall(r"^(?:one|two|three) +[0-9a-f]{12} +(\d+)$", text, re.MULTILINE)
    assert told == ["3", "3", "3"]
    assert re.search(r"^ +\d+\.\d s  503, Retry-After: \d+, ", text, re.MULTILINE)
    assert (folder / "starts").read_text().splitlines() == ["first", "second", "third"]
    assert (folder / "results" / "count.txt").read_text() == "first counted to 3\n"


def test_the_fleet_that_is_kept_goes_on_until_it_is_stopped(shown_fleet: tuple[Path, str]) -> None:
    folder, text = shown_fleet
    address = re.search(r"BROKER_URL=(\S+)", text)
    assert address
    with urlopen(f"{address[1]}/health/ready") as answer:  # noqa: S310 - our own address
        assert answer.status == 200
    assert len(alive(folder)) == 8
    assert make_fleet(folder, "--stop").stdout == "8 processes ended\n"
    assert alive(folder) == []


def test_interrupted_the_fleet_leaves_nothing_behind(redis_server: None, haproxy_server: None, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = [sys.executable, str(SHOW), "--folder", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    ) as process:
        for _ in range(int(WITHIN / 0.05)):
            if len(alive(folder)) > 4:  # itself, Redis, the sites
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        told, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (130, "")
    assert "all that was started is stopped" in told
    assert alive(folder) == []


def test_without_redis_and_haproxy_it_says_what_to_install(tmp_path: Path) -> None:
    done = make_fleet(tmp_path / "data", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "redis-server and haproxy are not installed. Run: make servers." in done.stderr

"""A client made from the description, as anybody may have one, through a whole story: two brokers, real sockets.

What it checks of us it checks by itself: it follows the redirect with its credentials, reads each part by its
discriminator, and raises where it cannot. Its name and password were made over the API too.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
from argon2 import PasswordHasher

from broker.domain import kinds
from broker.domain.components import (
    ComponentMetadata,
    EnumValueOption,
    IntegerDeltaOption,
    IntegerValueOption,
    Level,
    MessageItem,
    StringValueOption,
)
from broker.domain.session import ScheduledExecutionSession, SessionPhase, SimpleSessionConnector
from broker.testing.program import Program, above

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse"
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
_names = (f"ada{n}" for n in count())
Eventually = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A broker before one site, which pretends to run for a hundredth of what is asked for. Everybody may read."""
    folder = tmp_path_factory.mktemp("world")
    site = Program(
        folder,
        "alba",
        platform={"kind": "simulated", "share": 0.01},
        tariff={"core_hour": 1.0, "energy": 0.01, "carbon": 0.25},
        capacity={"cores": 999, "memory": 4999, "performance": 1.5},
        policies={"quotas": {"offers": 999}},  # these tests leave many open
    ).start()
    root = {"password_hash": _CHEAP.hash("root-secret"), "roles": ["administrator"]}
    access = {"users": {"root": root}, "readers": "public"}
    top = Program(folder, "federation", **{**above(alba=site), "access": access}).start()
    yield top
    for program in (top, site):
        program.kill()


def call(method: str, url: str, body: object = None, *, user: str = "", secret: str = PASSWORD) -> tuple[int, Any]:
    """Status and document, by the standard library alone."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def api(client: Any, federation: Program) -> Any:
    """The generated API, signed in as somebody made for this test."""
    name = next(_names)
    made = {"username": name, "password": PASSWORD}
    assert call("POST", f"{federation.url}/admin/identities", made, user="root", secret="root-secret")[0] == 201
    settings = client.Configuration(host=federation.url, username=name, password=PASSWORD)
    caller = client.ApiClient(settings)
    if client.__name__.endswith("standard"):
        # The standard's description says nothing of signing in, so whoever uses it sets the header.
        caller.set_default_header("Authorization", settings.get_basic_auth_token())
    return client.DefaultApi(caller)


def test_the_program_of_the_documents_runs(makings: dict[str, Any], federation: Program, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"<!-- client -->\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    name = next(_names)
    made = {"username": name, "password": PASSWORD}
    assert call("POST", f"{federation.url}/admin/identities", made, user="root", secret="root-secret")[0] == 201
    for shown, real in (
        ("https://broker.example", federation.url),
        ('"ada"', f'"{name}"'),
        ('"…"', f'"{PASSWORD}"'),
        ("import execution_broker", f"import {makings['own'].package().__name__}"),
    ):
        assert shown in program
        program = program.replace(shown, real)
    (tmp_path / "program.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(makings["own"].folder)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    *offers, phase = ran.stdout.splitlines()
    assert (ran.returncode, phase) == (0, "COMPLETED"), ran.stderr
    assert offers[0].startswith("1 alba 0.033333 EUR ")


def asking(client: Any, duration: str, **more: Any) -> Any:
    return client.ExecutionRequest(
        executable=client.DockerContainer(
            kind=kinds.DOCKER_CONTAINER,
            image=client.DockerImageSpec(locations=["registry.example/fit:1"], digest="sha256:" + "0" * 64),
        ),
        compute=client.SimpleComputeResource(
            kind=kinds.SIMPLE_COMPUTE,
            meta=client.ComponentMetadata(name="box"),
            cores=client.SimpleComputeCores(min=2, max=4),
            memory=client.SimpleComputeMemory(min=4),
        ),
        schedule=client.RequestedScheduleBlock(requested=client.RequestedScheduleItem(duration=duration)),
        **more,
    )


def turn(client: Any, phase: str) -> Any:
    return client.EnumValueUpdate(kind=kinds.ENUM_UPDATE, path="/phase", value=phase)


def phase(session: Any) -> str:
    return str(getattr(session.phase, "value", session.phase))


def items(found: Any) -> dict[str, tuple[float, float]]:
    return {item.type: (item.min, item.max) for item in found}


def phases(session: Any) -> list[str]:
    """What may be asked of the session."""
    return [value for option in session.meta.options or () for value in option.values]


def test_a_whole_story(client: Any, api: Any, federation: Program, eventually: Eventually) -> None:
    # Ask: it follows the 303 as a GET, and signs in there too.
    answer = api.execution_request_with_http_info(asking(client, "PT1M"))
    assert answer.status_code == 200
    asked = answer.data
    assert (asked.result, len(asked.offers) >= 2) == ("YES", True)
    again = api.offer_set_select(asked.meta.uuid)
    assert [offer.meta.uuid for offer in again.offers] == [offer.meta.uuid for offer in asked.offers]

    # Read: costs and metrics by type, what may be done, when it starts, whom to ask until when.
    best, other = asked.offers[:2]
    assert items(best.costs)[kinds.MONETARY] == pytest.approx((2 / 60, 2 / 60), rel=1e-3)
    assert items(best.costs).keys() >= {kinds.ENERGY, kinds.CARBON}
    assert items(best.metrics) == {kinds.COMPUTE_PERFORMANCE: (1.5, 1.5)}
    assert (best.executable.image.locations, best.compute.cores.min) == (["registry.example/fit:1"], 2)
    assert best.compute.schedule.available.start
    assert best.expires.tzinfo is not None
    assert phases(best) == ["ACCEPTED", "REJECTED"]
    assert all(message.message for message in best.meta.messages)

    # Accept, and follow to the end; the sibling is gone.
    taken = api.session_update(best.meta.uuid, turn(client, "ACCEPTED"))
    assert phase(taken) not in ("OFFERED", "REJECTED", "EXPIRED", "FAILED")
    assert phases(taken) == ["CANCELLED"]
    eventually(lambda: phase(api.session_select(best.meta.uuid)) == "COMPLETED")
    assert phases(api.session_select(best.meta.uuid)) == []
    eventually(lambda: phase(api.session_select(other.meta.uuid)) == "REJECTED")
    with pytest.raises(client.ApiException) as refusal:
        api.session_update(other.meta.uuid, turn(client, "ACCEPTED"))
    assert refusal.value.status == 409

    # Another one, for longer than anybody waits: cancelled while it runs.
    long = api.execution_request(asking(client, "PT8H")).offers[0].meta.uuid
    api.session_update(long, turn(client, "ACCEPTED"))
    eventually(lambda: phase(api.session_select(long)) in ("RUNNING", "AVAILABLE"))
    api.session_update(long, turn(client, "CANCELLED"))
    eventually(lambda: phase(api.session_select(long)) == "CANCELLED")


def test_direct(client: Any, api: Any, eventually: Eventually) -> None:
    answer = api.direct_execution_with_http_info(asking(client, "PT1M"))
    assert (answer.status_code, phase(answer.data) in ("OFFERED", "REJECTED", "FAILED")) == (200, False)
    eventually(lambda: phase(api.session_select(answer.data.meta.uuid)) == "COMPLETED")


def test_direct_refused_is_a_session_with_reasons(client: Any, api: Any) -> None:
    request = asking(client, "PT1M")
    request.compute.cores = client.SimpleComputeCores(min=1000)
    with pytest.raises(client.ApiException) as refusal:
        api.direct_execution(request)
    assert refusal.value.status == 400
    assert phase(refusal.value.data) == "FAILED"
    assert any("1000" in message.message for message in refusal.value.data.meta.messages)


def test_no_with_a_reason_of_every_site(client: Any, api: Any) -> None:
    request = asking(client, "PT1M")
    request.compute.memory = client.SimpleComputeMemory(min=5000)
    answer = api.execution_request(request)
    assert (answer.result, answer.offers or []) == ("NO", [])
    assert any("alba" in message.message for message in answer.meta.messages)


def test_ceilings_and_floors_of_the_request_hold(client: Any, api: Any) -> None:
    def cost(most: float) -> Any:
        return [client.SimpleMinMaxFloatCost(kind=kinds.MINMAX_COST, type=kinds.MONETARY, max=most)]

    def metric(least: float) -> Any:
        return [client.SimpleMinMaxFloatMetric(kind=kinds.MINMAX_METRIC, type=kinds.COMPUTE_PERFORMANCE, min=least)]

    assert api.execution_request(asking(client, "PT1M", costs=cost(1.0), metrics=metric(1.5))).result == "YES"
    assert api.execution_request(asking(client, "PT1M", costs=cost(0.001))).result == "NO"
    assert api.execution_request(asking(client, "PT1M", metrics=metric(2.0))).result == "NO"


def read_back(part: Any) -> dict[str, Any]:
    """A part as the client has it, but for the names and addresses that it was given on the way."""
    return {name: value for name, value in part.to_dict().items() if name not in ("meta", "schedule", "storage")}


def test_every_executable_of_the_standard_is_read_back(client: Any, api: Any) -> None:
    ports = [client.DockerNetworkPort(access=True, internal=client.DockerInternalPort(port=8888), protocol="HTTP")]
    docker = asking(client, "PT1M").executable
    docker.network = client.DockerNetworkSpec(ports=ports)
    docker.environment = {"OMP_NUM_THREADS": "2"}
    docker.command = ["fit", "--fast"]
    for executable in (
        docker,
        client.SingularityContainer(kind=kinds.SINGULARITY_CONTAINER, location="https://images.example/fit.sif"),
        client.JupyterNotebook(kind=kinds.JUPYTER_NOTEBOOK, location="https://notebooks.example/fit.ipynb"),
    ):
        request = asking(client, "PT1M")
        request.executable = executable
        found = api.execution_request(request).offers[0].executable
        assert type(found) is type(executable)
        assert read_back(found) == read_back(executable)


def test_all_data_of_the_standard_and_what_holds_it_is_read_back(client: Any, api: Any) -> None:
    obscore = client.IvoaObsCoreItem(obs_id="sky-1")
    datalink = client.IvoaDataLinkItem(access_url="https://data.example/links", content_length=2**31 - 1)
    ivoa = client.IvoaDataResourceBlock(ivoid="ivo://example/sky?1", obscore=obscore, datalink=datalink)
    skao = client.SkaoDataResourceBlock(
        namespace="sky",
        objectname="1",
        datasize=10**9,
        checksum=client.SkaoChecksumItem(type="adler32", value="0a0b0c0d"),
        replicas=[client.SkaoReplicaItem(rsename="ALBA-DISK", dataurl="https://data.example/1")],
    )
    rucio = client.RucioDataResourceBlock(endpoint="https://rucio.example", scope="sky", object="1")
    s3 = {"endpoint": "https://s3.example", "bucket": "sky", "object": "1.fits"}
    data = [
        client.SimpleDataResource(kind=kinds.SIMPLE_DATA, location="https://data.example/1.fits"),
        client.S3DataResource(kind=kinds.S3_DATA, **s3),
        client.RucioDataResource(kind=kinds.RUCIO_DATA, rucio=rucio),
        client.IvoaDataResource(kind=kinds.IVOA_DATA, ivoa=ivoa),
        client.SkaoDataResource(kind=kinds.SKAO_DATA, skao=skao),
    ]
    for n, part in enumerate(data):
        part.meta, part.storage = client.ComponentMetadata(name=f"data{n}"), "disk"
    disk = client.SimpleStorageResource(
        kind=kinds.SIMPLE_STORAGE, meta=client.ComponentMetadata(name="disk"), size=client.SimpleStorageSize(min=1)
    )
    request = asking(client, "PT1M", data=data, storage=[disk])
    request.compute.volumes = [
        client.SimpleVolumeMount(kind=kinds.SIMPLE_VOLUME, path="/sky", mode="READONLY", resource="data0")
    ]
    offer = api.execution_request(request).offers[0]
    assert [read_back(part) for part in offer.data] == [read_back(part) for part in data]
    # In an answer the parts have uuids of their own, and refer to each other by these.
    assert {part.storage for part in offer.data} == {str(offer.storage[0].meta.uuid)}
    assert offer.compute.volumes[0].resource == str(offer.data[0].meta.uuid)


def test_what_may_stand_in_a_session_besides_is_read(client: Any) -> None:
    """Connectors and options of all sorts, as our models write them: few platforms have them."""
    session = ScheduledExecutionSession(
        kind=kinds.SCHEDULED_SESSION,
        meta=ComponentMetadata(
            uuid=UUID("91c20000-0000-4000-8000-00000000000b"),
            options=(
                EnumValueOption(kind=kinds.ENUM_OPTION, path="/phase", values=("CANCELLED",)),
                StringValueOption(kind=kinds.STRING_OPTION, path="/name", pattern="[a-z]+"),
                IntegerValueOption(kind=kinds.INTEGER_OPTION, path="/cores", min=1, max=4),
                IntegerDeltaOption(kind=kinds.DELTA_OPTION, path="/time", min=0, max=60, units="s"),
            ),
            messages=tuple(MessageItem.fill("uri:test", "{a}", level=level, a="b") for level in get_args(Level)),
        ),
        phase=SessionPhase.AVAILABLE,
        connectors=(
            SimpleSessionConnector(
                kind="uri:jupyter", status="AVAILABLE", protocol="HTTP", location="https://notebooks.example/x?token=y"
            ),
        ),
    )
    found = client.AbstractExecutionSession.from_dict(session.to_wire())
    assert [type(option).__name__ for option in found.meta.options] == [
        "EnumValueOption",
        "StringValueOption",
        "IntegerValueOption",
        "IntegerDeltaOption",
    ]
    assert [option.path for option in found.meta.options] == ["/phase", "/name", "/cores", "/time"]
    assert {message.message for message in found.meta.messages} == {"b"}
    assert (found.connectors[0].status, phase(found)) == ("AVAILABLE", "AVAILABLE")


def test_what_is_not_there_and_not_ones_own(client: Any, api: Any, federation: Program) -> None:
    session = api.execution_request(asking(client, "PT1M")).offers[0].meta.uuid
    nobody = client.DefaultApi(client.ApiClient(client.Configuration(host=federation.url)))
    with pytest.raises(client.ApiException) as missing:
        api.session_select("00000000-0000-4000-8000-000000000000")
    with pytest.raises(client.ApiException) as unsigned:
        nobody.session_update(session, turn(client, "ACCEPTED"))
    assert (missing.value.status, unsigned.value.status) == (404, 401)
    # Reading is public here (access.readers).
    assert phase(nobody.session_select(session)) == "OFFERED"


def test_users_are_made_once_by_administrators_alone(federation: Program) -> None:
    url, name = f"{federation.url}/admin/identities", next(_names)
    asked = {"username": name, "password": PASSWORD}
    status, made = call("POST", url, asked, user="root", secret="root-secret")
    assert (status, made["username"]) == (201, name)
    assert call("GET", f"{federation.url}/sessions", user=name)[0] == 200
    status, told = call("POST", url, {**asked, "password": "another horse"}, user="root", secret="root-secret")
    assert (status, told["uuid"], told["username"], bool(told["error"])) == (409, made["uuid"], name, True)
    status, told = call("POST", url, {"username": "no:name", "password": PASSWORD}, user="root", secret="root-secret")
    assert (status, bool(told["error"])) == (400, True)
    for user, expected in ((name, 403), ("", 401)):
        assert call("POST", url, {**asked, "username": "eve"}, user=user)[0] == expected
    assert call("GET", f"{federation.url}/sessions", user=name, secret="another horse")[0] == 401
    log = federation.log.read_text()
    assert (f'"username": "{name}"' in log, PASSWORD in log) == (True, False)


def test_reading_is_public_where_the_settings_say_so(federation: Program) -> None:
    """Nobody has signed in here; what can be changed or is one's own list still wants it."""
    request = {"executable": {"kind": kinds.DOCKER_CONTAINER}}
    status, asked = call("POST", f"{federation.url}/requests", request, user="root", secret="root-secret")
    assert (status, asked["result"]) == (200, "YES")
    for url in (asked["meta"]["url"], asked["offers"][0]["meta"]["url"]):
        assert call("GET", url)[0] == 200
    assert call("POST", f"{federation.url}/requests", request)[0] == 401

"""Every call: what it hands to its service, what it answers, and who may make it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from broker.api import health
from broker.api.auth import Policy
from broker.api.routes import Parts, build_app, routes
from broker.domain import kinds
from broker.domain.session import SessionPhase
from broker.domain.site import Registration
from broker.domain.updates import EnumValueUpdate
from broker.errors import Unavailable
from broker.ports import Listing

SET = "7f3a0000-0000-4000-8000-00000000000a"
SESSION = "91c20000-0000-4000-8000-00000000000b"
OTHER = "00000000-0000-4000-8000-000000000000"
REQUEST = {"executable": {"kind": kinds.DOCKER_CONTAINER}}

POLICIES = {
    "POST /requests": Policy.USER,
    "POST /direct": Policy.USER,
    "GET /offersets": Policy.READER,
    "GET /offersets/{uuid}": Policy.READER,
    "GET /offersets/{uuid}/events": Policy.READER,
    "GET /offersets/{uuid}/request": Policy.READER,
    "GET /sessions": Policy.READER,
    "GET /sessions/{uuid}": Policy.READER,
    "POST /sessions/{uuid}": Policy.USER,
    "POST /sessions/release": Policy.USER,
    "POST /sessions/status": Policy.READER,
    "GET /sessions/{uuid}/events": Policy.READER,
    "GET /sessions/{uuid}/logs": Policy.READER,
    "GET /sessions/{uuid}/results": Policy.READER,
    "GET /sessions/{uuid}/results/{name}": Policy.READER,
    "GET /doubts": Policy.OPERATOR,
    "POST /sessions/{uuid}/resolve": Policy.OPERATOR,
    "GET /sites": Policy.READER,
    "GET /sites/{name}": Policy.READER,
    "PUT /sites/{name}": Policy.OPERATOR,
    "DELETE /sites/{name}": Policy.OPERATOR,
    "POST /sites/{name}/drain": Policy.OPERATOR,
    "POST /sites/{name}/resume": Policy.OPERATOR,
    "POST /sites/{name}/forget": Policy.OPERATOR,
    "GET /profile": Policy.READER,
    "POST /admin/identities": Policy.ADMINISTRATOR,
    "GET /status": Policy.READER,
    "GET /metrics": Policy.READER,
    "GET /openapi.json": Policy.PUBLIC,
    "GET /health/live": Policy.PUBLIC,
    "GET /health/ready": Policy.PUBLIC,
}


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def parts(api: Any) -> Parts:
    return Parts(
        offers=api.services, acceptance=api.services, doubts=api.services, sessions=api.services, sites=api.services,
        status=api.services, access=api.access, identities=api.services, keys=api.services, events=api.services,
        ready=api.services.ready, draw_offerset=None, draw_session=None, openapi=b"", broker_id="x", version="",
    )  # fmt: skip  # type: ignore[arg-type]


def test_every_route_has_the_policy_that_is_written_here(parts: Parts) -> None:
    found = {f"{route.method} {route.path.replace(':.+', '')}": route.policy for route in routes(parts)}
    assert found == POLICIES


def test_the_server_answers_nothing_beside_the_table(parts: Parts) -> None:
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in build_app(parts).router.routes()
        if route.resource is not None and route.method not in ("HEAD", "OPTIONS")
    }
    assert served == set(POLICIES)


@pytest.mark.parametrize("call", POLICIES)
async def test_every_path_says_what_can_be_done_there(api: Any, call: str) -> None:
    """Also to whoever is not signed in. What is not said cannot be done, and the refusal says the same."""
    path = call.split()[1]
    answer = await api.call("OPTIONS", path.replace("{uuid}", SESSION).replace("{name}", "alba"), user=None)
    allowed = set(answer.headers["Allow"].split(", "))
    described = {other.split()[0] for other in POLICIES if other.split()[1] == path}
    assert (answer.status, answer.body) == (204, b"")
    assert allowed - {"HEAD"} == described | {"OPTIONS"}
    refused = await api.call("PATCH", path.replace("{uuid}", SESSION).replace("{name}", "alba"))
    assert (refused.status, refused.headers["Content-Type"]) == (405, "application/problem+json")
    assert set(refused.headers["Allow"].split(", ")) >= allowed


@pytest.mark.parametrize("call", POLICIES)
async def test_policies_hold_over_http(api: Any, call: str) -> None:
    """Each call by nobody, by a user and by an operator: whoever may not is told so, whoever may is not."""
    method, path = call.replace("{uuid}", SESSION).replace("{name}", "alba").split()
    body = {"POST": {"sessions": []}, "PUT": {}}.get(method)
    expected = {
        Policy.PUBLIC: (True, True, True),
        Policy.READER: (False, True, True),
        Policy.USER: (False, True, True),
        Policy.OPERATOR: (False, False, True),
        Policy.ADMINISTRATOR: (False, False, False),
    }[POLICIES[call]]
    for user, allowed in zip((None, "ann", "ops"), expected, strict=True):
        before = len(api.services.calls)
        status = (await api.call(method, path, user=user, json=body)).status
        assert (status not in (401, 403)) == allowed, (user, status)
        assert status == 401 or user is not None or allowed
        assert allowed or len(api.services.calls) == before


@pytest.mark.parametrize(
    "call",
    [call for call in POLICIES if call.startswith("GET") and "{name}" not in call and not call.endswith("/events")],
)
async def test_what_can_be_read_answers_head(api: Any, call: str) -> None:
    path = call.removeprefix("GET ").replace("{uuid}", SESSION)
    answer = await api.call("HEAD", path, user="ops" if POLICIES[call] is Policy.OPERATOR else "ann")
    assert (answer.status, answer.body) == (200, b"")


async def test_every_answer_names_the_broker(api: Any) -> None:
    for method, path, user in (
        ("GET", "/health/live", None),
        ("GET", "/nothing", None),
        ("GET", "/sites", None),
        ("DELETE", "/sites", "ann"),
        ("GET", f"/sessions/{SESSION}/results/x", "ann"),
    ):
        answer = await api.call(method, path, user=user)
        assert answer.headers["Broker-Id"] == "me-id"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# ── offer sets ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_asking_is_303_with_the_set_and_its_place(api: Any) -> None:
    answer = await api.call("POST", "/requests", json=REQUEST)
    assert answer.status == 303
    assert answer.headers["Location"] == f"{api.url}/offersets/{SET}"
    assert answer.json() == {"uuid": SET, "url": f"{api.url}/x/{SET}", "phase": "OFFERED", "for": "ann"}


async def test_who_follows_the_location_gets_there_with_the_same_credentials(api: Any) -> None:
    answer = await api.call("POST", "/requests", json=REQUEST, allow_redirects=True)
    assert (answer.status, answer.json()["uuid"]) == (200, SET)
    assert [call[0] for call in api.services.calls] == ["ask", "get"]


async def test_places_follow_the_public_url_where_there_is_one(serve: Any) -> None:
    api = await serve(public_url="https://radio-net.example/broker/")
    answer = await api.call("POST", "/requests", json=REQUEST)
    assert answer.headers["Location"] == f"https://radio-net.example/broker/offersets/{SET}"
    assert answer.json()["url"].startswith("https://radio-net.example/broker/x/")


async def test_places_follow_the_name_by_which_we_were_called(api: Any) -> None:
    answer = await api.call("GET", f"/offersets/{SET}", headers={"Host": "broker.example:8080"})
    assert answer.json()["url"].startswith("http://broker.example:8080/x/")


@pytest.mark.parametrize("host", ["a/b", "a?b", "a@b", "a b", "[::1", "a:b", "é"])
async def test_what_is_no_host_gets_into_no_url(api: Any, host: str) -> None:
    for method, path, body in (("GET", f"/offersets/{SET}", None), ("POST", "/requests", REQUEST)):
        answer = await api.call(method, path, json=body, headers={"Host": host})
        assert answer.status == 400
    assert api.services.calls == []


async def test_reading_a_set(api: Any) -> None:
    answer = await api.call("GET", f"/offersets/{SET.upper()}")
    assert (answer.status, answer.json()["uuid"]) == (200, SET)


@pytest.mark.parametrize("path", ["/offersets/x", "/sessions/x", "/sessions/{" + SESSION + "}", f"/sessions/{OTHER}"])
async def test_what_is_not_there_is_404(api: Any, path: str) -> None:
    answer = await api.call("GET", path)
    assert (answer.status, answer.json()["type"]) == (404, "uri:problem-not-found-1.0")


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_request_of_a_set_is_read_back(api: Any) -> None:
    answer = await api.call("GET", f"/offersets/{SET}/request")
    assert (answer.status, answer.json()["executable"]["source"]) == (200, "1")
    assert api.services.calls[-1][:2] == ("request", UUID(SET))
    drawn = await api.call("GET", f"/offersets/{SET}/request", headers={"Accept": "application/xml"})
    assert b"<offers-request>" in drawn.body
    assert b'<executable kind="uri:python-program-1.0"><source>1</source></executable>' in drawn.body


async def test_an_update_is_handed_on_and_the_session_answered(api: Any) -> None:
    update = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}
    answer = await api.call("POST", f"/sessions/{SESSION}", json=update)
    assert (answer.status, answer.json()["phase"]) == (200, "ACCEPTED")
    _, uuid, handed, _ = api.services.calls[-1]
    assert (uuid, handed) == (UUID(SESSION), EnumValueUpdate(**update))


async def test_direct_is_303_to_the_session(api: Any) -> None:
    answer = await api.call("POST", "/direct", json=REQUEST)
    assert (answer.status, answer.headers["Location"]) == (303, f"{api.url}/sessions/{SESSION}")
    assert answer.json()["phase"] == "ACCEPTED"


async def test_a_refused_direct_is_400_with_the_session_failed(api: Any) -> None:
    api.services.refused = True
    answer = await api.call("POST", "/direct", json=REQUEST)
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
    assert answer.json()["phase"] == "FAILED"
    assert "Location" not in answer.headers


async def test_many_are_released_in_one_call(api: Any) -> None:
    answer = await api.call("POST", "/sessions/release", json={"sessions": [SESSION, "no uuid"]})
    assert (answer.status, answer.body) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert api.services.calls[-1][:2] == ("release", [UUID(SESSION)])


async def test_many_are_looked_at_in_one_call(api: Any) -> None:
    answer = await api.call("POST", "/sessions/status", json={"sessions": [OTHER, SESSION, "no uuid"]})
    assert answer.status == 200
    assert [session["uuid"] for session in answer.json()["sessions"]] == [SESSION]
    assert answer.json()["unknown"] == [OTHER, "no uuid"]


@pytest.mark.parametrize(
    ("body", "element"),
    [
        ({}, "sessions"),
        ({"sessions": SESSION}, "sessions"),
        ({"sessions": [1]}, "sessions[0]"),
        ({"sessions": [], "all": True}, "all"),
        ({"sessions": [SESSION] * 10_001}, "sessions"),
    ],
)
async def test_batches_are_lists_of_uuids(api: Any, body: Any, element: str) -> None:
    for path in ("/sessions/release", "/sessions/status"):
        answer = await api.call("POST", path, json=body)
        assert (answer.status, answer.json()["element"]) == (400, element)
    assert api.services.calls == []


async def test_logs_as_a_document_and_as_text(api: Any) -> None:
    path = f"/sessions/{SESSION}/logs"
    assert (await api.call("GET", path)).json() == {"stdout": "out é", "stderr": None}
    text = await api.call("GET", path + "?stream=stdout", headers={"Accept": "text/plain"})
    assert (text.headers["Content-Type"], text.body.decode()) == ("text/plain; charset=utf-8", "out é")
    none = await api.call("GET", path + "?stream=stderr")
    assert (none.status, none.json()["detail"]) == (404, "the site keeps no stderr of this session.")
    assert (await api.call("GET", path + "?stream=stdlog")).json()["element"] == "stream"


async def test_results_name_their_places(api: Any) -> None:
    answer = await api.call("GET", f"/sessions/{SESSION}/results")
    first, second = answer.json()["results"]
    assert first == {
        "name": "a/flu xes.fits",
        "bytes": 7,
        "checksum": "sha256:00",
        "url": f"{api.url}/sessions/{SESSION}/results/a/flu%20xes.fits",
        "kept_until": "2027-01-15T08:00:00Z",
    }
    assert second == {"name": "b", "bytes": 0, "checksum": None, "kept_until": None, "url": second["url"]}
    fetched = await api.call("GET", first["url"].removeprefix(api.url))
    assert (fetched.status, api.services.calls[-1][2]) == (200, first["name"])


@pytest.mark.parametrize(
    "name", ["..%2Fx", "a%2F..%2Fb", "%2Fetc%2Fpasswd", "a%5C..%5Cb", "a%00b", "a%2F%2Fb", "%2E%2E"]
)
async def test_names_that_lead_elsewhere_are_no_results(api: Any, name: str) -> None:
    answer = await api.call("GET", f"/sessions/{SESSION}/results/{name}")
    assert answer.status == 404
    assert api.services.calls == []


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────


def line(n: int, kind: str = "session") -> Listing:
    return Listing(
        kind, f"{n:08x}-0000-4000-8000-000000000000", "me|ann", 1_800_000_000.125 + n, "RUNNING", "fit", "alba"
    )


async def test_pages_lead_on_to_the_next(api: Any) -> None:
    api.services.lines = [line(3), line(2), line(1)]
    answer = await api.call("GET", "/sessions?limit=2")
    first, second = answer.json()["sessions"]
    assert first == {
        "uuid": line(3).id,
        "url": f"{api.url}/sessions/{line(3).id}",
        "name": "fit",
        "phase": "RUNNING",
        "created": "2027-01-15T08:00:03Z",
        "site": "alba",
    }
    await api.call("GET", "/sessions?limit=2&after=" + answer.json()["next"])
    assert api.services.calls[-1][2]["after"] == (line(2).created, line(2).id)
    assert second["uuid"] == line(2).id


async def test_the_last_page_leads_nowhere(api: Any) -> None:
    api.services.lines = [line(1, "offerset")]
    document = (await api.call("GET", "/offersets")).json()
    assert "next" not in document
    assert "site" not in document["offersets"][0]


async def test_an_offer_is_no_job_unless_asked_for(api: Any) -> None:
    async def phases(query: str) -> set[str]:
        assert (await api.call("GET", f"/sessions{query}")).status == 200
        return set(api.services.calls[-1][2]["phases"])

    assert set(SessionPhase) - await phases("") == {"OFFERED", "REJECTED", "EXPIRED"}
    assert await phases("?all=true") == set()
    assert await phases("?phase=OFFERED,RUNNING&phase=FAILED") == {"OFFERED", "RUNNING", "FAILED"}


async def test_everyones_lines_say_whose_they_are(api: Any) -> None:
    api.services.lines = [line(1)]
    document = (await api.call("GET", "/sessions?everyone=true", user="ops")).json()
    assert api.services.calls[-1][2]["everyone"] is True
    assert document["sessions"][0]["owner"] == "me|ann"


async def test_lists_are_cut_to_what_is_looked_for(api: Any) -> None:
    query = "site=alba&name=fit%20%C3%A9&since=2027-01-15T09:00:00%2B01:00"
    await api.call("GET", f"/sessions?{query}")
    asked = api.services.calls[-1][2]
    assert (asked["site"], asked["name"], asked["since"]) == ("alba", "fit é", 1_800_000_000.0)
    await api.call("GET", f"/offersets?{query}")
    asked = api.services.calls[-1][2]
    assert (asked["name"], asked["since"]) == ("fit é", 1_800_000_000.0)
    await api.call("GET", "/sessions?since=2027-01-15T09:00:00+01:00")
    assert api.services.calls[-1][2]["since"] == 1_800_000_000.0


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=x",
        "after=1e9_x",
        "after=_",
        "phase=RUNING",
        "all=yes",
        "everyone=1",
        "since=yesterday",
        "since=2026-11-22",
        "since=9999999-01-01T00:00:00Z",
    ],
)
async def test_queries_that_cannot_be_read_are_400(api: Any, query: str) -> None:
    answer = await api.call("GET", f"/sessions?{query}")
    assert (answer.status, answer.json()["element"]) == (400, query.partition("=")[0])


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sites_are_read(api: Any) -> None:
    assert (await api.call("GET", "/sites")).json() == {"sites": [{"name": "alba"}]}
    assert (await api.call("GET", "/sites/alba")).json() == {"name": "alba"}
    assert (await api.call("GET", "/sites/nowhere")).status == 404
    assert (await api.call("GET", "/sites/No%20Name")).status == 404
    assert (await api.call("GET", "/profile")).json()["cores"] == 8


async def test_a_site_is_registered(api: Any) -> None:
    answer = await api.call("PUT", "/sites/delta", user="ops", json={"url": "https://delta.example"})
    assert (answer.status, answer.json()) == (200, {"name": "delta", "url": "https://delta.example"})
    assert api.services.calls[-1][1:3] == ("delta", Registration(url="https://delta.example"))


async def test_a_registration_that_does_not_hold_names_the_key(api: Any) -> None:
    for body, element in (({"ulr": "x"}, "ulr"), ({"poll": 0}, "poll"), ({"country": "es"}, "country")):
        answer = await api.call("PUT", "/sites/delta", user="ops", json=body)
        assert (answer.status, answer.json()["element"]) == (400, element)
    answer = await api.call("PUT", "/sites/No%20Name", user="ops", json={})
    assert (answer.status, answer.json()["element"]) == (400, "name")


async def test_a_site_is_forgotten(api: Any) -> None:
    assert (await api.call("DELETE", "/sites/delta", user="ops")).status == 204
    refused = await api.call("DELETE", "/sites/fixed", user="ops")
    assert (refused.status, refused.json()["remedy"]) == (409, "Remove it there.")


async def test_a_site_is_drained_and_resumed(api: Any) -> None:
    answer = await api.call("POST", "/sites/alba/drain", user="ops", json={"until": "2026-12-01T00:00:00Z"})
    assert (answer.status, answer.json()["drained"]) == (200, True)
    assert api.services.calls[-1][2] == datetime(2026, 12, 1, tzinfo=UTC)
    await api.call("POST", "/sites/alba/drain", user="ops")
    assert api.services.calls[-1][2] is None
    wrong = await api.call("POST", "/sites/alba/drain", user="ops", json={"untill": "x"})
    assert wrong.json()["element"] == "untill"
    assert (await api.call("POST", "/sites/alba/resume", user="ops")).json()["drained"] is False


async def test_what_was_learned_of_a_site_is_forgotten(api: Any) -> None:
    assert (await api.call("POST", "/sites/alba/forget", user="ops")).json()["calibration"] == []
    assert api.services.calls[-1][:2] == ("forget", "alba")
    assert (await api.call("POST", "/sites/alba/forget")).status == 403


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_metrics_are_prometheus_text(api: Any) -> None:
    answer = await api.call("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.body == b"broker_up 1\n"


async def test_the_description_is_served_as_it_was_given(api: Any) -> None:
    answer = await api.call("GET", "/openapi.json", user=None, headers={"Accept": "text/html"})
    assert (answer.headers["Content-Type"], answer.body) == ("application/json", b'{"openapi":"3.1.0"}')


async def test_health(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WELL_FOR", 0.0)
    live = await api.call("GET", "/health/live", user=None)
    assert (live.status, live.json()) == (200, {"status": "live", "version": "1.2.3"})
    assert (await api.call("GET", "/health/ready", user=None)).json() == {"status": "ready"}
    api.services.error = Unavailable("the disk is full.")
    ready = await api.call("GET", "/health/ready", user=None)
    assert (ready.status, ready.json()["detail"]) == (503, "the disk is full.")
    assert (await api.call("GET", "/health/live", user=None)).status == 200

"""Errors as documents: every class of the tree, aiohttp's own, and what nobody expected."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from broker import errors
from broker.api.problems import TABLE, problem_of

SESSION = "/sessions/91c20000-0000-4000-8000-00000000000b"


def _tree(cls: type[errors.BrokerError]) -> set[type[errors.BrokerError]]:
    return {cls}.union(*map(_tree, cls.__subclasses__()))


def test_every_error_of_the_tree_is_told_as_something_better_than_an_incident() -> None:
    leaves = [cls for cls in _tree(errors.BrokerError) - {errors.BrokerError} if cls.__module__ == errors.__name__]
    assert [cls for cls in leaves if problem_of(cls("x")).status == 500] == []
    assert len({problem.slug for problem in TABLE.values()}) == len(TABLE)


def test_an_error_without_a_line_is_told_as_its_nearest_ancestor() -> None:
    class Particular(errors.Conflict): ...

    assert problem_of(Particular("x")).status == 409
    assert problem_of(errors.BrokerError("x")).status == 500


@pytest.mark.parametrize(
    ("error", "status", "members", "headers"),
    [
        (errors.BadInput("bad.", element="a.b", remedy="Mend."), 400, {"element": "a.b", "remedy": "Mend."}, {}),
        (errors.BadInput("bad."), 400, {}, {}),
        (errors.Dangling("no cub.", element="data[0].storage"), 400, {"element": "data[0].storage"}, {}),
        (errors.UnknownKind("no."), 400, {}, {}),
        (errors.SettingsError("no.", file="x", key="options.a"), 400, {"element": "options.a"}, {}),
        (
            errors.NotSignedIn("who?"),
            401,
            {},
            {"WWW-Authenticate": 'Basic realm="execution broker", charset="UTF-8"'},
        ),
        (errors.NotAllowed("no."), 403, {}, {}),
        (errors.NotFound("no."), 404, {}, {}),
        (errors.Conflict("taken.", remedy="First: cancel."), 409, {"remedy": "First: cancel."}, {}),
        (errors.TooMany("slow.", retry_after=0.2), 429, {}, {"Retry-After": "1"}),
        (errors.Unavailable("disk full.", retry_after=7.1), 503, {}, {"Retry-After": "8"}),
        (errors.LoopDetected("loop."), 508, {}, {}),
        (errors.SiteBusy("later.", retry_after=3), 503, {}, {"Retry-After": "3"}),
        (errors.SiteTimeout("late."), 504, {}, {}),
        (errors.SiteUnreachable("gone."), 502, {}, {}),
        (errors.SiteForgot("what?"), 404, {}, {}),
    ],
)
async def test_services_errors_are_problem_documents(
    api: Any, error: errors.BrokerError, status: int, members: dict[str, str], headers: dict[str, str]
) -> None:
    api.services.error = error
    answer = await api.call("GET", SESSION)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    problem = TABLE[type(error)]
    assert answer.json() == {
        "type": problem.type,
        "title": problem.title,
        "status": status,
        "instance": SESSION,
        "detail": error.detail,
        **members,
    }
    assert {name: answer.headers[name] for name in headers} == headers
    assert ("Retry-After" in answer.headers) == ("Retry-After" in headers)


async def test_problems_come_in_yaml_where_that_is_read(api: Any) -> None:
    api.services.error = errors.Conflict("no: really", remedy="12:30:00")
    answer = await api.call("GET", SESSION, headers={"Accept": "text/yaml"})
    assert answer.headers["Content-Type"] == "application/problem+yaml"
    assert yaml.safe_load(answer.body)["remedy"] == "12:30:00"


async def test_no_such_path(api: Any) -> None:
    answer = await api.call("GET", "/nothing/here?secret=1", user=None)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["detail"] == "nothing is at /nothing/here."


async def test_no_such_method_says_which_there_are(api: Any) -> None:
    answer = await api.call("DELETE", SESSION, user=None)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert answer.json()["remedy"] == "There are: GET, HEAD, OPTIONS, POST."


async def test_the_unexpected_is_logged_and_told_as_a_number_only(api: Any) -> None:
    api.services.error = RuntimeError("password=hunter2 in /home/broker/x.py")
    with capture_logs() as logs:
        answer = await api.call("GET", SESSION)
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    (entry,) = [entry for entry in logs if entry["event"] == "incident"]
    assert entry["exc_info"] is True or isinstance(entry["exc_info"], BaseException | tuple)
    assert answer.json()["detail"] == f"Incident {entry['incident']}."
    assert answer.json()["instance"] == f"urn:uuid:{entry['incident']}"
    assert (await api.call("GET", "/health/live")).status == 200

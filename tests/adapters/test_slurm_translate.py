"""From requests to jobs of Slurm, what cannot run, and when what can would begin; without a Slurm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import ValidationError

from adapters.planning.platform import Job
from adapters.slurm import cluster, records, translate
from adapters.slurm.cluster import Rules, Snapshot, Want
from adapters.slurm.options import SlurmOptions
from adapters.slurm.records import Job as Native
from adapters.slurm.records import Node, Partition, Reservation
from adapters.slurm.translate import Where
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest

SESSION = UUID("0f7c0d3e-33f0-4f6e-8a3e-6d8c0a3f2b11")
ADA = Owner("https://idp.example.org", "ada@example.org")
NOW = 1_000_000.0


def options(**more: Any) -> SlurmOptions:
    given = {"folder": "/shared/jobs", "user": "broker", "key_file": "/etc/slurm/jwt.key"}
    return SlurmOptions.model_validate({**given, **more})


def a_request(**more: Any) -> ExecutionRequest:
    executable = {"kind": kinds.PYTHON_PROGRAM, "source": "pass", **more.pop("executable", {})}
    return ExecutionRequest.model_validate({"executable": executable, **more})


def a_job(request: ExecutionRequest | None = None) -> Job:
    request = request or a_request()
    return Job(SESSION, "fit", ADA, request, 4, 8, 0, request.extras, duration=600.0, start=0.0)


# ── the job ──────────────────────────────────────────────────────────────────────────────────────────────────────


def submission(api: str, given: SlurmOptions, request: ExecutionRequest | None = None) -> dict[str, Any]:
    job = a_job(request)
    who = translate.account(ADA, given)
    assert who is not None
    want = translate.want(job.request, job.cores, job.memory, job.duration, given)
    where = Where("main,long", Path(f"/shared/jobs/{SESSION}"), Path("/shared/jobs/.runner-1.pyz"))
    return translate.submission(api, job, "alba-2", "us", who, want, where, given)


GPUS = {"kind": kinds.SIMPLE_COMPUTE, "extras": [{"type": kinds.GPU, "count": 2}]}
COMMON = {
    "name": f"alba_2-{SESSION}-ada_example.org",
    "comment": f"session {SESSION} of us for ada@example.org (https://idp.example.org): fit",
    "partition": "main,long",
    "account": "astro",
    "constraints": "skylake",
    "current_working_directory": f"/shared/jobs/{SESSION}",
    "standard_output": f"/shared/jobs/{SESSION}/slurm.out",
    "tasks": 1,
    "cpus_per_task": 4,
}


def test_a_job_for_the_version_of_debian() -> None:
    given = options(account="astro", constraint="skylake")
    assert submission("v0.0.38", given, a_request(compute=GPUS)) == {
        "script": f"#!/bin/sh\nexec /usr/bin/python3 /shared/jobs/.runner-1.pyz run /shared/jobs/{SESSION}\n",
        "job": {
            **COMMON,
            "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            "nodes": [1, 1],
            "memory_per_node": 8 * 1024 + 64,
            "time_limit": 12,
            "no_requeue": True,
            "gres": "gpu:2",
        },
    }


@pytest.mark.parametrize("api", ["v0.0.40", "v0.0.44"])
def test_a_job_for_later_versions(api: str) -> None:
    given = options(account="astro", constraint="skylake", runner="/opt/my python/bin/python3".replace(" ", "-"))
    assert submission(api, given, a_request(compute=GPUS)) == {
        "script": f"#!/bin/sh\nexec /opt/my-python/bin/python3 /shared/jobs/.runner-1.pyz run /shared/jobs/{SESSION}\n",
        "job": {
            **COMMON,
            "environment": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
            "minimum_nodes": 1,
            "maximum_nodes": 1,
            "memory_per_node": {"set": True, "infinite": False, "number": 8 * 1024 + 64},
            "time_limit": {"set": True, "infinite": False, "number": 12},
            "requeue": False,
            "tres_per_node": "gres/gpu:2",
        },
    }


def test_a_name_tells_site_session_and_person() -> None:
    name = translate.name("alba-2", SESSION, Owner("x", "../ada; rm -rf\n" + "a" * 500))
    assert name.startswith(f"alba_2-{SESSION}-.._ada__rm__rf_a")
    assert len(name) < 130
    assert translate.session_of(name, "alba-2") == SESSION
    assert translate.session_of(name, "alba") is None
    assert translate.session_of(f"alba_2-{SESSION}x", "alba-2") is None
    assert translate.session_of(f"x-alba_2-{SESSION}", "alba-2") is None
    assert translate.session_of(None, "alba-2") is None


def test_a_comment_is_one_short_line() -> None:
    job = msgspec.structs.replace(a_job(), name="ü\n" * 2000)
    comment = translate._comment(job, "us")
    assert translate.is_of(comment, SESSION, "us")
    assert not translate.is_of(comment, SESSION, "u")
    assert not translate.is_of(None, SESSION, "us")
    assert comment.isprintable()
    assert len(comment.encode()) <= 900


@pytest.mark.parametrize(
    ("more", "minutes"),
    [
        ({}, 12),  # 600 s, 10 s of grace, a minute to begin
        ({"executable": {"source": None, "location": "https://example.org/fit.py"}}, 72),
        ({"data": [{"kind": kinds.SIMPLE_DATA, "location": "https://example.org/x"}]}, 72),
        ({"executable": {"requirements": ["astropy"]}}, 132),
        ({"outputs": {"to": "https://store.example.org/x/"}}, 72),
    ],
)
def test_slurms_limit_has_room_for_all_that_happens_on_the_node(more: dict[str, Any], minutes: int) -> None:
    given = options(install_requirements=True, writes=["https"])
    assert translate.minutes(a_request(**more), 600.0, given) == minutes


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_people_run_as_the_operator_says() -> None:
    users = {
        "ada@example.org": {"account": "stars"},
        "https://idp.example.org ada@example.org": {"user": "ada", "qos": "high"},
    }
    given = options(account="astro", users=users)
    ada = translate.account(ADA, given)
    other = translate.account(Owner("elsewhere", "ada@example.org"), given)
    bob = translate.account(Owner("elsewhere", "bob"), given)
    assert ada
    assert (ada.user, ada.account, ada.qos) == ("ada", "astro", "high")
    assert other
    assert (other.user, other.account, other.qos) == ("broker", "stars", None)
    assert bob
    assert (bob.user, bob.account, bob.qos) == ("broker", "astro", None)


def test_who_has_no_account_is_told_where_to_apply() -> None:
    given = options(others=False, apply="https://hpc.example.org/apply")
    assert translate.account(ADA, given) is None
    assert str(translate.no_account(given)) == "you have no account on this cluster: https://hpc.example.org/apply"


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"executable": {"kind": kinds.DOCKER_CONTAINER}}, "executable.kind: docker-container does not run here. "
         "Nearest yes: python-program."),
        ({"executable": {"kind": kinds.JUPYTER_NOTEBOOK, "location": "https://example.org/a.ipynb"}},
         "executable.kind: jupyter-notebook does not run here. Nearest yes: python-program."),
        ({"executable": {"python": ">=3.11"}}, "executable.python: which version of Python the nodes have is not known "
         "here"),
        ({"executable": {"requirements": ["astropy"]}}, "executable.requirements: this site installs nothing. "
         "Nearest yes: no requirements."),
        ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "extras": [{"type": "uri:quantum-1.0", "count": 1}]}},
         "compute.extras: there is no quantum here. Nearest yes: gpu, fpga."),
        ({"data": [{"kind": kinds.SIMPLE_DATA, "location": "ftp://example.org/x"}]},
         "data[0]: 'ftp://example.org/x' cannot be read from here. Nearest yes: http, https."),
    ],
)  # fmt: skip
def test_what_never_runs_is_refused_with_a_reason(more: dict[str, Any], reason: str) -> None:
    assert [str(each) for each in translate.refuse(a_request(**more), options())] == [reason]


@pytest.mark.parametrize(
    ("executable", "reason"),
    [
        ({"kind": kinds.DOCKER_CONTAINER}, "executable.image.locations: a container needs the location of its image"),
        ({"image": {"locations": ["fit:1"]}, "privileged": True}, "executable.privileged: nothing runs privileged "
         "here. Nearest yes: false."),
        ({"image": {"locations": ["fit:1"]}, "network": {"ports": [{"access": True, "internal": {"port": 80}}]}},
         "executable.network.ports: no ports of jobs are reached from outside here. Nearest yes: none."),
        ({"image": {"locations": ["fit:1"]}, "entrypoint": "it's"}, "executable.entrypoint: it cannot be split into "
         "words"),
        ({"kind": kinds.SINGULARITY_CONTAINER, "location": "/etc/passwd"}, "executable.location: no image can be had "
         "from there. Nearest yes: docker://, oras://, library://, https://."),
        ({"kind": kinds.SINGULARITY_CONTAINER, "location": "oras://registry.example/fit:1"}, None),
        ({"image": {"locations": ["fit:1"]}, "entrypoint": "fit --all"}, None),
    ],
)  # fmt: skip
def test_containers_run_where_the_operator_has_apptainer(executable: dict[str, Any], reason: str | None) -> None:
    request = ExecutionRequest.model_validate({"executable": {"kind": kinds.DOCKER_CONTAINER, **executable}})
    found = translate.refuse(request, options(apptainer="/usr/bin/apptainer"))
    assert [str(each) for each in found] == ([reason] if reason else [])


def test_an_entrypoint_goes_before_the_images_own() -> None:
    executable = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["fit:1"]}, "entrypoint": "fit --all",
                  "command": ["x"]}  # fmt: skip
    request = ExecutionRequest.model_validate({"executable": executable, "compute": GPUS})
    source = translate.spec(a_job(request), options(apptainer="/usr/bin/apptainer")).source
    assert source is not None
    assert "['/usr/bin/apptainer', 'exec', '--nv', 'docker://fit:1', 'fit', '--all', 'x']" in source


def test_versions_of_python_are_those_that_the_operator_states() -> None:
    given = options(python_version="3.11.2")
    assert translate.refuse(a_request(executable={"python": ">=3.11"}), given) == ()
    for asked in (">=3.12", "nonsense"):
        (reason,) = translate.refuse(a_request(executable={"python": asked}), given)
        assert reason.element == "executable.python"


@pytest.mark.parametrize(
    "wrong",
    [
        {"folder": "jobs"},
        {"token": {"token_file": "/t"}},
        {"user": "-oops"},
        {"partitions": ["a;b"]},
        {"constraint": "a b"},
        {"python": "python3"},
        {"api": "0.0.38"},
        {"extras": {kinds.GPU: "gpu;x"}},
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(**wrong)


# ── the cluster ──────────────────────────────────────────────────────────────────────────────────────────────────

RULES = Rules((), "", "", "", "", {kinds.GPU: "gpu"}, 64)
SMALL = Want(1, 1024, {}, 60)


def node(name: str, **more: Any) -> Node:
    return Node(**{"name": name, "cpus": 4, "real_memory": 8000, "state": "idle", "partitions": ["main"], **more})


def partition(name: str = "main", **more: Any) -> Partition:
    return Partition(**{"name": name, "flags": ["default"], "state": "UP", "max_time_limit": 120, **more})


def late(name: str = "main", **more: Any) -> Partition:
    """As versions from 0.0.40 on write it."""
    record = {
        "name": name,
        "partition": {"state": ["UP"]},
        "maximums": {"time": {"set": True, "infinite": False, "number": 120}},
        "accounts": {"allowed": "", "deny": ""},
        "qos": {"allowed": "", "deny": "", "assigned": ""},
        **more,
    }
    return msgspec.convert(record, Partition)


@pytest.mark.parametrize("made", [partition, late])
def test_partitions_of_both_shapes_read_alike(made: Any) -> None:
    one = made()
    assert (one.up, one.minutes, one.cores, one.memory) == (True, 120, None, None)
    assert one.admits("astro", "high")
    closed = made(**({"allowed_accounts": "stars"} if made is partition else {"accounts": {"allowed": "stars"}}))
    assert (closed.admits("astro", ""), closed.admits("stars", ""), closed.admits("", "")) == (False, True, True)
    denied = made(**({"denied_qos": "high"} if made is partition else {"qos": {"deny": "high"}}))
    assert (denied.admits("", "high"), denied.admits("", "low")) == (False, True)


@pytest.mark.parametrize(
    ("partitions", "named", "found"),
    [
        ([partition(), partition("long", flags=[])], (), ["main"]),
        ([partition(), partition("long", flags=[])], ("long", "main"), ["main", "long"]),
        ([partition(state="DOWN"), partition("long", flags=[])], (), []),
        ([late(), late("long")], (), ["main", "long"]),
        ([partition(), partition("empty")], ("empty",), []),
    ],
)
def test_jobs_go_where_the_operator_says_or_where_slurm_would(
    partitions: list[Partition], named: tuple[str, ...], found: list[str]
) -> None:
    nodes = [node("n1", partitions=["main", "long"])]
    places = cluster.places(Snapshot(partitions, nodes, []), RULES._replace(partitions=named))
    assert [place.partition.name for place in places] == found


@pytest.mark.parametrize(
    ("nodes", "want", "reason"),
    [
        ([node("n1")], SMALL, None),
        ([node("n1", state="down", reason="power")], SMALL, "compute: all nodes that could run it are down: n1 (DOWN: "
         "power)"),
        ([node("n1", state=["IDLE", "DRAIN"])], SMALL, "compute: all nodes that could run it are down: n1 (DRAIN)"),
        ([node("n1"), node("n2", state="down")], SMALL, None),
        ([node("n1", cpus=64, real_memory=1000), node("n2", cpus=2, real_memory=64_000)], Want(4, 32_000, {}, 60),
         "compute: no node has 4 cores and 32000 MiB together, in a partition that runs so long. "
         "Nearest yes: less of one; the most is 64 cores, or 64000 MiB."),
        ([node("n1")], Want(1, 1, {}, 600), "schedule.requested.duration: its time limit would be 600 min, with "
         "staging and tidying up; the most is 120 min. Nearest yes: at most PT1H59M, all in all."),
        ([node("n1", gres="gpu:2")], Want(1, 1, {"gpu": 4}, 60), "compute.extras: no node has 4 of gpu. "
         "Nearest yes: at most 2."),
        ([node("n1", gres="gpu:a100:2")], Want(1, 1, {"gpu:a100": 2}, 60), None),
        ([], SMALL, "no partition of the cluster takes jobs of this site now"),
    ],
)  # fmt: skip
def test_what_fits_nowhere_is_told_with_the_nearest_yes(nodes: list[Node], want: Want, reason: str | None) -> None:
    places = cluster.places(Snapshot([partition()], nodes, []), RULES)
    assert [str(each) for each in cluster.refusals(places, want)] == ([reason] if reason else [])


def test_a_job_goes_to_all_partitions_in_which_it_fits() -> None:
    parts = [partition(), partition("short", flags=[], max_time_limit=10)]
    rules = RULES._replace(partitions=("main", "short"))
    places = cluster.places(Snapshot(parts, [node("n1", partitions=["main", "short"])], []), rules)
    assert cluster.partitions(places, SMALL) == "main"
    assert cluster.partitions(places, SMALL._replace(minutes=5)) == "main,short"


def test_features_that_all_nodes_must_have_are_looked_at() -> None:
    nodes = [node("n1", features="a,b"), node("n2", features=["a"])]
    snapshot = Snapshot([partition()], nodes, [])

    def found(constraint: str) -> list[str]:
        return [each.name for each in cluster.nodes_of(cluster.places(snapshot, RULES._replace(constraint=constraint)))]

    assert (found(""), found("a"), found("a&b"), found("[a*2|b]")) == (["n1", "n2"], ["n1", "n2"], ["n1"], ["n1", "n2"])


def test_what_the_operator_names_and_the_cluster_does_not_have_is_told_by_its_key() -> None:
    snapshot = Snapshot([partition(), partition("short")], [node("n1", features="a")], [])
    assert cluster.shut(snapshot, RULES._replace(partitions=("main", "mian"))) == (
        "the cluster has no partition mian, as the settings have it under partitions. There are: main, short"
    )
    said = cluster.shut(snapshot, RULES._replace(constraint="b"))
    assert said == "no node of the cluster has b, as the settings have it under constraint"
    assert cluster.shut(snapshot, RULES) == "no partition of the cluster takes jobs of this site now"


FULL = {"state": "allocated", "alloc_cpus": 4}


def runs(on: str, until: float) -> Native:
    return Native(job_id=1, name="x", job_state="RUNNING", nodes=on, end_time=until)


def waits(start: float = 0, **more: Any) -> Native:
    return Native(
        **{"job_id": 2, "name": "y", "job_state": "PENDING", "partition": "main", "start_time": start, **more}
    )


@pytest.mark.parametrize(
    ("nodes", "jobs", "span"),
    [
        ([node("n1")], [], (NOW, NOW + 60)),
        ([node("n1")], [waits()], None),  # who knows what it waits for
        ([node("n1")], [waits(NOW + 900)], (NOW, NOW + 900)),  # perhaps before it
        ([node("n1")], [waits(state_reason="JobHeldUser")], (NOW, NOW + 60)),
        ([node("n1")], [waits(partition="other")], (NOW, NOW + 60)),
        ([node("n1", **FULL)], [runs("n1", NOW + 300)], (NOW + 300, NOW + 300)),
        ([node("n1", **FULL), node("n2", **FULL)], [runs("n[1-2]", NOW + 300), runs("n1", NOW + 100)],
         (NOW + 100, NOW + 300)),
        ([node("n1", **FULL)], [runs("n1", NOW + 300), waits(NOW + 300), waits(NOW + 900)], (NOW + 300, NOW + 900)),
        ([node("n1", **FULL)], [], None),  # other people's jobs are not shown
        ([node("n1", **FULL)], [runs("n1", NOW - 50)], (NOW, NOW)),  # over its limit
        ([node("n1", state="down")], [], None),
    ],
)  # fmt: skip
def test_when_it_begins(nodes: list[Node], jobs: list[Native], span: tuple[float, float] | None) -> None:
    places = cluster.places(Snapshot([partition()], nodes, []), RULES)
    found = cluster.begins(places, SMALL, [], "", jobs, NOW)
    assert (found and (found.low, found.high)) == span


def test_each_job_and_reservation_is_read_once_however_many_nodes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done between calls: clusters have thousands of jobs and of nodes."""
    asked: list[str | None] = []

    def hosts(text: str | None) -> frozenset[str]:
        asked.append(text)
        return records.hosts(text)

    monkeypatch.setattr(cluster, "hosts", hosts)
    nodes = [node(f"n{i}", **FULL) for i in range(1, 50)]
    jobs = [runs(f"n{i}", NOW + 100 + i) for i in range(1, 50)]
    repair = Reservation(name="repair", node_list="n[1-3]", start_time=NOW, end_time=NOW + 500)
    found = cluster.begins(cluster.places(Snapshot([partition()], nodes, []), RULES), SMALL, [repair], "", jobs, NOW)
    assert found is not None
    assert (found.low, found.high) == (NOW + 104, NOW + 104)
    assert len(asked) == 50


@pytest.mark.parametrize(
    ("starts", "ends", "own", "low"),
    [
        (NOW - 10, NOW + 7200, "", NOW + 7200),
        (NOW + 3000, NOW + 7200, "", NOW + 7200),  # it would not be over by then
        (NOW + 3601, NOW + 7200, "", NOW),
        (NOW - 7200, NOW - 1, "", NOW),
        (NOW - 10, NOW + 7200, "repair", NOW),
        (NOW - 10, 0, "", math.inf),
    ],
)
def test_reservations_of_others_keep_it_off(starts: float, ends: float, own: str, low: float) -> None:
    places = cluster.places(Snapshot([partition()], [node("n1")], []), RULES)
    repair = Reservation(name="repair", node_list="n[1-4]", start_time=starts, end_time=ends)
    found = cluster.begins(places, SMALL, [repair], own, [], NOW)
    assert found is not None
    assert found.low == low

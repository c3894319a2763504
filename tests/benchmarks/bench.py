"""`make bench`: what a request costs, beside bare aiohttp calls to the same sites. Imports the broker's kinds.

    python tests/benchmarks/bench.py [--sites 3,10,100] [--loads 0:1,0.05:1,0.05:8] [--blocks 7] [--out FILE]

Four kinds of programs: the stub sites (stubs.py) and this client on one core, the real brokers and the bare fan-out
(bare.py, twice, for the null) on another. In every block each arm takes its turn at each size and load, the order
turned by one from block to block, so that whatever slows the machine for a while slows all. Only ratios are worth
comparing.

Linux only: it reads the CPU clocks of other processes and pins them to cores.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from figures import Figure, ratios, table

from broker.domain import kinds

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 60.0  # seconds for a program to start, or for the releases of a set to arrive
OFFERS = 3  # of each stub site
SERVE = """
import sys
from broker.server import run
from broker.settings import load_settings
run(load_settings(sys.argv[1]))
"""
UPDATE = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}
ARMS = ("broker", "bare", "null", "door")
Load = tuple[float, int]  # the sites' think time in seconds, and how many requests are under way at once
Key = tuple[str, int, Load, str]  # what, sites, load, arm
IDLE: Load = (0.0, 1)

REQUEST = {
    "meta": {"name": "imaging of J1939", "description": "A run of the imaging pipeline over one field."},
    "executable": {
        "kind": kinds.DOCKER_CONTAINER,
        "meta": {"name": "imaging"},
        "image": {
            "locations": ["ghcr.io/example/radio-imaging:2026.11", "registry.example.org/radio-imaging:2026.11"],
            "digest": "sha256:" + "7f" * 32,
            "platform": {"architecture": "amd64", "os": "linux"},
        },
        "command": ["/opt/imaging/run", "--field", "J1939+6342", "--cell", "0.4arcsec", "--size", "8192"],
        "environment": {f"IMAGING_OPTION_{n}": f"value-of-the-option-{n}" for n in range(8)},
    },
    "compute": {
        "kind": kinds.SIMPLE_COMPUTE,
        "meta": {"name": "compute"},
        "cores": {"min": 4, "max": 16},
        "memory": {"min": 16, "max": 64},
        "volumes": [
            {"kind": kinds.SIMPLE_VOLUME, "path": "/data", "mode": "READONLY", "resource": "visibilities"}
        ],
    },
    "storage": [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}, "size": {"min": 100, "max": 200}}],
    "data": [
        {
            "kind": kinds.SKAO_DATA,
            "meta": {"name": "visibilities"},
            "storage": "scratch",
            "skao": {
                "namespace": "teal",
                "objectname": "J1939.ms.tar",
                "objecttype": "FILE",
                "datasize": 84_200_000_000,
                "replicas": [{"rsename": "archive", "dataurl": "https://archive.example.org/vis/J1939.ms.tar"}],
            },
        }
    ],
    "schedule": {"requested": {"duration": "PT2H"}},
    "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 40.0}],
}  # fmt: skip


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────


class Program:
    """A child process on one core."""

    def __init__(self, arguments: Sequence[str], core: int | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})

    def line(self) -> str:
        """The next line that it writes. Raises RuntimeError where it ended instead."""
        assert self._process.stdout is not None
        if text := self._process.stdout.readline():
            return text
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")

    def ask(self, command: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self.line())

    def cpu(self) -> float:
        """Seconds that it has used, in all threads, to the nanosecond (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def memory(self) -> float:
        """Resident megabytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()


class Client:
    """One connection, kept alive."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self._http.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = self._http.getresponse()
        return answer.status, answer.read()


# ── the stage ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Stage:
    """All programs, running. `door` is the port of the bare fan-out. `brokers`: (sites, think) → program and port;
    each broker knows its sites alone."""

    stubs: Program
    control: Client
    bare: dict[str, Program]
    door: int
    brokers: dict[tuple[int, float], tuple[Program, int]] = field(default_factory=dict)


@contextlib.contextmanager
def stage(sizes: Sequence[int], thinks: Sequence[float], pinned: Cores) -> Iterator[Stage]:
    ours, theirs = pinned
    with contextlib.ExitStack() as stack:
        if theirs is not None:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, {theirs})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

        def start(*arguments: str, core: int | None) -> Program:
            program = Program(arguments, core)
            stack.callback(program.stop)
            return program

        stubs = start(str(HERE / "stubs.py"), str(max(sizes)), *map(str, thinks), core=theirs)
        ports = json.loads(stubs.line())
        plan = folder / "plan.json"
        plan.write_text(json.dumps({"request": json.dumps(REQUEST), "ports": ports}), encoding="utf-8")
        bare = {name: start(str(HERE / "bare.py"), str(plan), core=ours) for name in ("bare", "null")}
        doors = {name: int(program.line()) for name, program in bare.items()}
        made = Stage(stubs, Client(ports[0][1][0]), bare, doors["bare"])
        for think, theirs_ports in ports:
            for size in sizes:
                config = settings(folder, f"b{size}-{int(think * 1000)}", theirs_ports[:size])
                program = start("-c", SERVE, str(config), core=ours)
                made.brokers[size, think] = program, int(program.line().rpartition(":")[2])
        yield made


Cores = tuple[int, int] | tuple[None, None]


def cores() -> Cores:
    """The measured programs' core, and that of the sites and the client; None where there is one core only."""
    found = sorted(os.sched_getaffinity(0))
    return (found[0], found[1]) if len(found) > 1 else (None, None)


def settings(folder: Path, name: str, ports: Sequence[int]) -> Path:
    """A broker as it comes, but for the rate at which one site may be called; the store syncs every commit."""
    written = {
        "name": name,
        "listen": "127.0.0.1:0",
        "store": f"{name}.db",
        "access": {"anonymous": "loopback"},
        "log": {"level": "warning"},
        "sites": {
            f"site-{n:03}": {
                "url": f"http://127.0.0.1:{port}", "country": "CH", "calls_per_minute": 6_000_000,
                "storages": [{"name": f"disk-{n:03}"}],
            }
            for n, port in enumerate(ports)
        },
        "links": [{"source": "*", "target": "*", "bandwidth": 1e9, "price": 0.02}],
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(written), encoding="utf-8")  # JSON is YAML
    return path


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Results:
    """One figure a block: seconds a request."""

    cpu: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    wall: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    client: list[float] = field(default_factory=list)  # share of a core, while the broker was asked
    stubs: list[float] = field(default_factory=list)
    memory: float = 0.0
    size: dict[int, int] = field(default_factory=dict)  # sites → bytes of an answer


def measure(made: Stage, sizes: Sequence[int], loads: Sequence[Load], blocks: int, calls: int, accepts: int) -> Results:
    """`calls`: to sites, in each block, for each arm, size and load."""
    found = Results()
    for block in range(-1, blocks):  # the first warms connections and caches, and is not counted
        into = found if block >= 0 else Results()
        turned = [ARMS[(i + block) % len(ARMS)] for i in range(len(ARMS))]
        for size in sizes:
            for load in loads:
                times = max(2 * load[1], min(60, calls // size))
                for arm in turned:
                    quotes(made, into, size, load, arm, times)
            for arm in turned:
                if arm != "door":
                    releases(made, into, size, arm, accepts)
        sys.stderr.write(f"block {block + 1} of {blocks}\n")
    found.memory = max(program.memory() for program, _ in made.brokers.values())
    return found


def quotes(made: Stage, into: Results, size: int, load: Load, arm: str, times: int) -> None:
    think, at_once = load
    program, port = made.brokers[size, think] if arm == "broker" else (made.bare["bare" if arm == "door" else arm], 0)
    client_before, stubs_before, began = time.process_time(), made.stubs.cpu(), time.perf_counter()
    before = program.cpu()
    if arm == "broker":
        seconds = side_by_side(lambda client: ask(client, into, size)[0], port, at_once, times)
        time.sleep(0.03)  # what the answer left to be done (timers) belongs to the request
    elif arm == "door":
        seconds = side_by_side(lambda client: knock(client, size, think), made.door, at_once, times)
    else:
        command = {"do": "quote", "sites": size, "think": think, "times": times, "at_once": at_once}
        seconds = program.ask(command)
    into.cpu["quote", size, load, arm].append((program.cpu() - before) / times)
    into.wall["quote", size, load, arm].append(median(seconds))
    if arm == "broker":
        spent = time.perf_counter() - began
        into.client.append((time.process_time() - client_before) / spent)
        into.stubs.append((made.stubs.cpu() - stubs_before) / spent)


def side_by_side(call: Callable[[Client], float], port: int, at_once: int, times: int) -> list[float]:
    """Each worker waits for its answer before it sends the next request: a closed loop."""
    clients = [Client(port) for _ in range(at_once)]
    left, seconds = iter(range(times)), []

    def work(client: Client) -> None:
        seconds.extend(call(client) for _ in left)

    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(work, client) for client in clients]:
            done.result()
    return seconds


def ask(client: Client, into: Results, size: int) -> tuple[float, dict[str, Any]]:
    body = json.dumps(REQUEST).encode()
    began = time.perf_counter()
    status, answer = client.call("POST", "/requests", body)
    spent = time.perf_counter() - began
    if status != 303 or answer.count(b'"rank":') != OFFERS * size:
        raise RuntimeError(f"the broker answered {status}, {answer.count(b'rank')} ranks: {answer[:2000]!r}")
    into.size[size] = len(answer)
    return spent, {"body": answer}


def knock(door: Client, size: int, think: float) -> float:
    body = json.dumps(REQUEST).encode()
    began = time.perf_counter()
    status, _ = door.call("POST", f"/requests?sites={size}&think={think}", body)
    if status != 303:
        raise RuntimeError(f"the bare fan-out answered {status}")
    return time.perf_counter() - began


def releases(made: Stage, into: Results, size: int, arm: str, accepts: int) -> None:
    """From the acceptance of one offer until every other one is given back. Wall time is the acceptance's alone."""
    key = ("release", size, IDLE, arm)
    if arm != "broker":
        program = made.bare[arm]
        before = program.cpu()
        program.ask({"do": "release", "sites": size, "think": 0.0, "offers": OFFERS, "times": accepts, "at_once": 1})
        into.cpu[key].append((program.cpu() - before) / accepts)
        return
    program, port = made.brokers[size, 0.0]
    client = Client(port)
    spent, walls = 0.0, []
    for _ in range(accepts):
        answer = json.loads(ask(client, into, size)[1]["body"])
        uuid = answer["offers"][0]["meta"]["uuid"]
        time.sleep(0.03)
        before, wanted = program.cpu(), released(made) + OFFERS * size - 1
        began = time.perf_counter()
        status, text = client.call("POST", f"/sessions/{uuid}", json.dumps(UPDATE).encode())
        walls.append(time.perf_counter() - began)
        if status != 200 or b'"phase":"ACCEPTED"' not in text:
            raise RuntimeError(f"the acceptance was answered by {status}: {text[:500]!r}")
        until(made, wanted)
        time.sleep(0.03)
        spent += program.cpu() - before
    into.cpu[key].append(spent / accepts)
    into.wall[key].append(median(walls))


def released(made: Stage) -> int:
    return int(json.loads(made.control.call("GET", "/count")[1])["REJECTED"])


def until(made: Stage, wanted: int) -> None:
    end = time.monotonic() + PATIENCE
    while (count := released(made)) < wanted:
        if time.monotonic() > end:
            raise RuntimeError(f"{count} releases came, {wanted} were wanted")
        time.sleep(0.005)


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────


def report(
    found: Results, sizes: Sequence[int], loads: Sequence[Load], blocks: int, arguments: Sequence[str], where: str
) -> str:
    rows = [(size, load) for load in loads for size in sizes]
    return _TEXT.format(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=where,
        versions=", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "msgspec", "pydantic")),
        python=platform.python_version(),
        command=" ".join(["python tests/benchmarks/bench.py", *arguments]),
        blocks=blocks,
        client=f"{median(found.client) * 100:.0f} %",
        busiest=f"{max(found.client) * 100:.0f} %",
        stubs=f"{median(found.stubs) * 100:.0f} %, at most {max(found.stubs) * 100:.0f} %",
        memory=f"{found.memory:.0f} MB",
        cpu=table(
            [*_LOAD, "broker, ms CPU", "bare, ms CPU", "broker / bare", "broker / bare with door", "null"],
            [_cpu(found, *row) for row in rows],
        ),
        wall=table(
            [*_LOAD, "broker, ms", "bare, ms", "broker / bare", "null", "answer"], [_wall(found, *row) for row in rows]
        ),
        back=table(
            ["sites", "releases", "broker, ms CPU", "bare, ms CPU", "broker / bare", "null", "acceptance, ms"],
            [_release(found, size) for size in sizes],
        ),
    )


_LOAD = ("sites", "think", "at once")


def _load(size: int, load: Load) -> list[str]:
    return [str(size), f"{load[0] * 1000:.0f} ms", str(load[1])]


def _cpu(found: Results, size: int, load: Load) -> list[str]:
    broker, bare, null, door = (found.cpu["quote", size, load, arm] for arm in ARMS)
    return [
        *_load(size, load),
        Figure.of(broker).text(scale=1e3),
        Figure.of(bare).text(scale=1e3),
        Figure.of(ratios(broker, bare)).text(),
        Figure.of(ratios(broker, door)).text(),
        Figure.of(ratios(null, bare)).text(),
    ]


def _wall(found: Results, size: int, load: Load) -> list[str]:
    broker, bare, null = (found.wall["quote", size, load, arm] for arm in ARMS[:3])
    return [
        *_load(size, load),
        Figure.of(broker).text(scale=1e3),
        Figure.of(bare).text(scale=1e3),
        Figure.of(ratios(broker, bare)).text(),
        Figure.of(ratios(null, bare)).text(),
        f"{found.size[size] / 1e3:.0f} kB",
    ]


def _release(found: Results, size: int) -> list[str]:
    broker, bare, null = (found.cpu["release", size, IDLE, arm] for arm in ARMS[:3])
    return [
        str(size),
        str(OFFERS * size - 1),
        Figure.of(broker).text(scale=1e3),
        Figure.of(bare).text(scale=1e3),
        Figure.of(ratios(broker, bare)).text(),
        Figure.of(ratios(null, bare)).text(),
        Figure.of(found.wall["release", size, IDLE, "broker"]).text(scale=1e3),
    ]


def machine(pinned: Cores, others: float) -> str:
    """`others`: the load average before we began."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    shared = "one core for all" if pinned[0] is None else "measured programs on one, sites and client on another"
    kind = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores ({kind}), {platform.platform()}; {shared}; load of others {others:.1f}"


_TEXT = """# Benchmarks

Written by `make bench`; not edited by hand. Absolute figures are this machine's; **the ratios are what to compare**.

- date: {date}
- machine: {machine}
- versions: Python {python}, {versions}
- command: `{command}`
- {blocks} blocks; each figure is the median of the blocks with the 95 % interval of a bootstrap over them

*broker*: the real server, its SQLite store syncing every commit, driven over HTTP in a closed loop, so many requests
*at once*; the answer holds every offer, ranked and explained. *bare*: aiohttp calls gathered to the same sites in a
process of the same kind (uvloop, prebuilt URLs, keep-alive, the same request), nothing parsed, stored or answered.
*with door*: the bare calls behind an aiohttp.web server, asked by the same client. *null*: a second bare process by
the first; what it is off 1.00 is noise. Each site answers with three offers of about 3 kB after its think time. Times
are worth little where others load the machine; CPU suffers less.

The client took {client} of a core while the broker was asked (at most {busiest}), the sites {stubs}.
The largest broker ended with {memory} resident.

## CPU of a request

{cpu}

Aimed at: at most 1.8 times bare at 10 sites, 1.7 at 100.

## Time from `POST /requests` to the whole answer

{wall}

## After an acceptance

The CPU from the acceptance of one offer until every other one was given back to its site, one call each, beside the
same calls bare; and the time until the acceptance was answered.

{back}
"""


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a request costs, beside bare aiohttp calls to the same sites.")
    parser.add_argument("--sites", default="3,10,100", help="sizes of the federation")
    parser.add_argument("--loads", default="0:1,0.05:1,0.05:8", help="seconds that a site thinks : requests at once")
    parser.add_argument("--blocks", type=int, default=7, help="how often everything is repeated")
    parser.add_argument("--requests", type=int, default=400, help="calls to sites in a block, for each arm and size")
    parser.add_argument("--accepts", type=int, default=2, help="acceptances in a block, for each arm and size")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    given = parsed(arguments)
    sizes = [int(text) for text in given.sites.split(",")]
    loads = [(float(think), int(at_once)) for think, at_once in (text.split(":") for text in given.loads.split(","))]
    pinned, others = cores(), os.getloadavg()[0]
    # The releases are measured at sites that answer at once.
    with stage(sizes, sorted({IDLE[0], *(think for think, _ in loads)}), pinned) as made:
        found = measure(made, sizes, loads, given.blocks, given.requests, given.accepts)
    given.out.write_text(
        report(found, sizes, loads, given.blocks, arguments, machine(pinned, others)), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""`make simulate`, or `python -m tests.benchmarks.placement`: every rule of placement on the same federations.

    python -m tests.benchmarks.placement [--sizes 5:8,50:8,500:5] [--requests 600:600] [--hours 0,5,50] [--out docs]
    python -m tests.benchmarks.placement --federation FILE --stream FILE [--seeds 5]
    python -m tests.benchmarks.placement generate SITES SEED FOLDER
    python -m tests.benchmarks.placement schema

The first draws its federations and writes docs/locality.md and its picture; the second takes yours, and prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

from . import generate, plot, report
from .experiment import HOURS, Outcome
from .federation import Federation, Stream, Unreadable, check, save
from .rules import RULES, TOLD
from .tasks import Task, amounts, work, world

ROOT = Path(__file__).resolve().parents[3]
MANY = 100  # sites; beyond them it is not asked what each unknown costs, which would take too long
SIZES = "5:8,50:8,500:5"


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["schema"]:
        schemas = {model.__name__.lower(): model.model_json_schema() for model in (Federation, Stream)}
        _say(json.dumps(schemas, indent=1))
        return 0
    try:
        if arguments[:1] == ["generate"]:
            return _generate(*arguments[1:])
        return _simulate(_options(arguments))
    except Unreadable as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's own words
        return 2


def _generate(sites: str, seed: str, folder: str) -> int:
    federation = generate.federation(int(sites), int(seed))
    Path(folder).mkdir(parents=True, exist_ok=True)
    save(federation, Path(folder, f"federation-{sites}-{seed}.json"))
    stream = generate.stream(federation, *amounts(int(sites)), int(seed))
    save(stream, Path(folder, f"stream-{sites}-{seed}.json"))
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.placement", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help="sites:seeds, with commas between")
    parser.add_argument("--requests", default="", help="of the warm-up, and judged, with a colon between")
    parser.add_argument("--hours", default=",".join(f"{hour:g}" for hour in HOURS), help="values of time, EUR an hour")
    parser.add_argument("--federation", default="", help="a file of your own")
    parser.add_argument("--stream", default="", help="the file of requests that goes with it")
    parser.add_argument("--seeds", type=int, default=5, help="how often your own federation is gone through")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default=str(ROOT / "docs"), help="folder of locality.md")
    options = parser.parse_args(arguments)
    if bool(options.federation) != bool(options.stream):
        parser.error("--federation and --stream go together")
    options.said = " ".join(arguments)
    return options


def _tasks(options: argparse.Namespace) -> list[Task]:
    """The longest first, so that no core waits for another at the end."""
    hours = tuple(float(hour) for hour in options.hours.split(","))
    if options.federation:
        files = options.federation, options.stream
        return [Task(0, seed, hours, RULES, (0, 0), *files) for seed in range(1, options.seeds + 1)]
    sizes = [_pair(part) for part in options.sizes.split(",")]
    given = _pair(options.requests) if options.requests else None
    told = tuple(f"calibrated+{what}" for what in TOLD)
    return [
        Task(sites, seed, hours, rules, given or amounts(sites))
        for sites, seeds in sorted(sizes, reverse=True)
        for rules in ((RULES,) if sites > MANY else (RULES, told))
        for seed in range(1, (seeds if rules is RULES else min(seeds, 4)) + 1)
    ]


def _pair(text: str) -> tuple[int, int]:
    one, other = text.split(":")
    return int(one), int(other)


def _simulate(options: argparse.Namespace) -> int:
    began, tasks, commit = time.monotonic(), _tasks(options), _commit()
    if options.federation:
        check(*world(tasks[0]))
    found = report.gather(_all(tasks, options.workers))
    took = time.monotonic() - began
    text = report.page(found, _about(options, tasks, found, commit, took))
    if options.federation:
        _say(text)
        return 0
    page = Path(options.out, "locality.md")
    page.write_text(report.insert(text, page.read_text(encoding="utf-8")), encoding="utf-8")
    Path(options.out, "placement").mkdir(exist_ok=True)
    plot.draw(found, Path(options.out, "placement", "cost.svg"))
    _say(f"{page}, {took:.0f} s")
    return 0


def _all(tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
        for done, future in enumerate(as_completed([pool.submit(work, task) for task in tasks]), 1):
            some = future.result()
            seconds = sum(outcome.seconds for outcome in some)
            _say(f"{done}/{len(tasks)}: {some[0].sites} sites, seed {some[0].seed}, {seconds:.0f} s of CPU")
            yield from some


def _about(
    options: argparse.Namespace, tasks: Sequence[Task], found: report.Found, commit: str, took: float
) -> dict[str, str]:
    judged = {(o.sites, o.seed): o.requests for each in found.values() for o in each.values()}
    seeds = {size: sum(sites == size for sites, _ in judged) for size in sorted({sites for sites, _ in judged})}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit}",
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}; {took:.0f} s",
        "command": f"`python -m tests.benchmarks.placement {options.said}`".replace(" `", "`"),
        "seeds": ", ".join(f"{count} of {size} sites" for size, count in seeds.items())
        + f"; {sum(judged.values())} requests judged, each by every rule at {len(tasks[0].hours)} values of time",
        "figures": "geometric means over the seeds, with 95 % intervals (Student's t on logarithms, paired by seed)",
    }


def _commit() -> str:
    """Of what runs: to be asked before anybody changes the files."""
    commit = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain", "--", "broker/domain", "tests/benchmarks/placement"):
        commit += ", and changes on top of it"
    return commit


def _git(*arguments: str) -> str:
    """Empty where this is no checkout."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command's own words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

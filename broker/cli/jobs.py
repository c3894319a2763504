"""The commands of whoever has something to run: submit, offers, accept, reject, watch, logs, fetch, cancel, sessions.

Imports the client.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from broker.cli import batches, lists
from broker.cli import desk as desks
from broker.cli.desk import Desk, ranked
from broker.cli.exits import Exit
from broker.cli.following import Follower, verdict
from broker.client import table, workflows
from broker.client.batch import read_rows
from broker.client.broker import Broker
from broker.client.compose import PRESETS, Draft, Options, compose
from broker.client.offers import Offers, money_guard
from broker.client.sessions import Session
from broker.client.words import count, plain, short
from broker.domain.session import taken
from broker.errors import BadInput, Conflict, NotFound

_MOVING = re.compile("would have to move there|not known whether its data is there")
_YES = re.compile(r"\bNearest yes: (.+?)\.?$")
_NEAREST = re.compile(r"compute\.(cores|memory)\b.*\bNearest yes: (\d+)")

Handle = Annotated[
    str, typer.Argument(help="rank in the set last shown, SET/RANK, uuid or its beginning, name, or URL")
]
Runs = Annotated[
    str, typer.Argument(help="rank in the set last shown, SET/RANK, uuid or its beginning, name, URL, or a batch")
]
Json = Annotated[bool, typer.Option("--json", help="print the JSON document")]
Wide = Annotated[bool, typer.Option("--wide", help="all columns, whatever the terminal's width")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="follow the run to its end")]


def submit(
    context: typer.Context,
    what: Annotated[
        Path | None,
        typer.Argument(help="a request (.yaml, .json), a program (.py), a notebook (.ipynb) or a workflow (.cwl)"),
    ] = None,
    inputs: Annotated[Path | None, typer.Argument(help="a workflow's inputs (.yaml, .json)")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Data that the run reads: URL, s3://BUCKET/OBJECT, rucio:SCOPE:NAME or ivo://…; repeatable"),
    ] = None,
    cores: Annotated[int | None, typer.Option(help="cores, at least", min=1)] = None,
    memory: Annotated[int | None, typer.Option(help="GiB, at least", min=1)] = None,
    duration: Annotated[str | None, typer.Option("--for", help="how long it runs: 90m, 1h30m, PT2H")] = None,
    prefer: Annotated[
        str | None,
        typer.Option(help="balanced, cheapest, fastest, closest or greenest", autocompletion=lambda: list(PRESETS)),
    ] = None,
    max_price: Annotated[float | None, typer.Option(help="the most that may be paid for a run", min=0)] = None,
    name: Annotated[str | None, typer.Option(help="name of the run")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="argument of the program; may be repeated")] = None,
    network: Annotated[
        bool, typer.Option("--network", help="the run needs the network itself, beside its data")
    ] = False,
    param: Annotated[list[str] | None, typer.Option(help="input of a workflow, NAME=VALUE; may be repeated")] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="open the notebook for a person, in place of executing it")
    ] = False,
    results_to: Annotated[
        str | None,
        typer.Option(help="where results are written, such as s3://bucket/{session}/; none: they are fetched"),
    ] = None,
    keep: Annotated[str | None, typer.Option(help="how long the site is to keep results: 30d, P30D")] = None,
    expect: Annotated[str | None, typer.Option(help="how much the results will be: 20GB, 500MB")] = None,
    site: Annotated[str | None, typer.Option(help="ask this site alone")] = None,
    again: Annotated[
        str | None, typer.Option(help="ask once more what this set asked; of a batch, what failed")
    ] = None,
    each: Annotated[
        Path | None, typer.Option(help="a run for each row of this table (.csv, .tsv); {column} takes its value")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="accept this rank, or best, at once; unless free, needs a ceiling")
    ] = None,
    watch: Watch = False,
    json: Json = False,
    wide: Wide = False,
    show: Annotated[
        bool, typer.Option("--show", help="print the request as it would be sent, and send nothing")
    ] = False,
) -> None:
    """Ask every site of the federation at once, and compare what they offer."""
    desk, arguments, parameters = desks.of(context), arg or (), workflows.parameters(param or ()) or None

    def options(row: dict[str, str] | None = None) -> Options:
        return Options(
            data or (), cores, memory, duration, prefer, max_price, name, arguments, site, row, interactive,
            results_to, keep, expect, inputs, parameters, network,
        )  # fmt: skip

    if (what is None) == (again is None):
        raise BadInput("a file is wanted, or --again and a set.", remedy="Write: broker submit FILE")
    if batches.named(again):
        if each is not None or show or options() != Options(max_price=max_price):
            raise BadInput("a batch is asked again as it was.", remedy="For a change, submit its file anew.")
        desk.run(lambda broker: _again(desk, broker, str(again), accept, max_price, watch=watch, json=json))
    if show and what is not None:
        found = [compose(what, options(row)) for row in read_rows(each)] if each else [compose(what, options())]
        wires = [draft.request.to_wire() for draft in found]
        desk.screen.json(wires if each else wires[0])
        return

    async def work(broker: Broker) -> int:
        asked = what if what is not None else await broker.request(str(again))
        if each is not None:
            batch = batches.compose(broker, asked, each, options)
            return await batches.ask(
                desk, broker, batch, accept, ceiling=max_price, again=False, watch=watch, json=json
            )
        draft = compose(asked, options())
        if show:
            desk.screen.json(draft.request.to_wire())
            return Exit.DONE
        return await _submit(desk, broker, draft, accept, watch=watch, json=json, wide=wide)

    desk.run(work)


async def _again(
    desk: Desk, broker: Broker, handle: str, accept: str | None, ceiling: float | None, *, watch: bool, json: bool
) -> int:
    batch = await batches.find(desk, broker, handle)
    return await batches.ask(desk, broker, batch, accept, ceiling=ceiling, again=True, watch=watch, json=json)


async def _submit(
    desk: Desk, broker: Broker, draft: Draft, accept: str | None, *, watch: bool, json: bool, wide: bool
) -> int:
    async with desk.screen.waiting(lambda: "asking the sites"):
        offers = await broker.send(draft)
    if not offers.yes and offers.pending:
        async with desk.screen.waiting(lambda: f"no offer yet, {count(offers.pending, 'site')} pending"):
            await offers.complete(enough=True, poll=desk.poll[0])
    desk.remember(broker, offers)
    chosen = ranked(offers, accept) if accept and offers.yes else None
    if chosen is None or not json:
        _show(desk, offers, json=json, wide=wide)
    if not offers.yes:
        desk.screen.note(_no(offers))
        return Exit.UNDECIDED if offers.pending else Exit.NO
    if chosen is None:
        return Exit.DONE
    money_guard(chosen, draft.ceiling)
    return await _accept(desk, chosen, len(offers) + len(offers.excluded) - 1, watch=watch, json=json)


def _show(desk: Desk, offers: Offers, *, json: bool, wide: bool) -> None:
    if json:
        desk.screen.json(offers.response.to_wire())
    elif desk.screen.tty or wide:
        desk.screen.say(table.offers(offers.response, desk.screen.look(wide=wide, now=offers.now), offers.request))
    else:
        desk.screen.say(table.tsv(offers.response))


def _no(offers: Offers) -> str:
    """`NO from 6 sites: 5 too small (memory: largest 48), 1 silent. --memory 48 may get 2`"""
    words = {"Declined": "say no", "TimedOut": "silent", "Failed": "failed", "Skipped": "not asked",
             "Pending": "pending", "Offered": "with offers left out"}  # fmt: skip
    near = _nearest_yes(offers)
    too_small = sum(len(sizes) for sizes in near.values())
    kinds: list[str] = ["Declined" if table.says_no(note) else note.outcome for note in offers.outcomes]
    counts = {kind: kinds.count(kind) - (too_small if kind == "Declined" else 0) for kind in words}
    largest = ", ".join(f"{what}: largest {max(sizes)}" for what, sizes in near.items())
    told = [f"{too_small} too small ({largest})"] if too_small else []
    words |= {"Declined": "says no"} if counts["Declined"] == 1 else {}
    told += [f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind] > 0]
    if not told:
        return f"NO: {plain('; '.join(_said(offers)) or 'the broker gives no reason.')}"
    hints = [f"--{what} {max(sizes)} may get {sizes.count(max(sizes))}" for what, sizes in near.items()]
    hints = hints or _common_yes(offers)
    return " ".join((f"NO from {count(len(kinds), 'site')}: {', '.join(told)}.", *hints))


def _nearest_yes(offers: Offers) -> dict[str, list[int]]:
    """What is too small, and how large it is at each site where nothing else stands in the way."""
    near: dict[str, list[int]] = {}
    for note in offers.outcomes:
        found = [match for text in note.reasons or () if (match := _NEAREST.search(plain(text)))]
        if table.says_no(note) and len(found) == len(note.reasons or ()) == 1:
            near.setdefault(found[0][1], []).append(int(found[0][2]))
    return near


def _common_yes(offers: Offers) -> list[str]:
    """The nearest yes that most sites name."""
    named = [match[1] for note in offers.outcomes for text in note.reasons or () if (match := _YES.search(plain(text)))]
    if not named:
        moving = any(_MOVING.search(text) for note in offers.outcomes for text in note.reasons or ())
        return ["Nearest yes: preferences.locality: preferred."] if moving else []
    most = max(dict.fromkeys(named), key=named.count)
    return [f"Nearest yes: {most}" + (f" (at {count(named.count(most), 'site')})." if len(set(named)) > 1 else ".")]


def _said(offers: Offers) -> list[str]:
    items = (offers.response.meta.messages if offers.response.meta else None) or ()
    return [item.message or item.template or "" for item in items]


def offers(
    context: typer.Context,
    handle: Annotated[
        str | None, typer.Argument(help="set: uuid or its beginning, or URL; or a batch; none: the last shown")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="every term of every score")] = False,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Show an offer set again, as it is now."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        if batches.named(handle):
            batches.show(desk, await batches.find(desk, broker, str(handle)), json=json)
            return Exit.DONE
        found = await desk.offers(broker, handle)
        if explain and not json:
            desk.screen.say(table.explain(found.response, desk.screen.look(wide=wide, now=found.now)))
        else:
            _show(desk, found, json=json, wide=wide)
        return Exit.DONE if found.yes else Exit.UNDECIDED if found.pending else Exit.NO

    desk.run(work)


def accept(context: typer.Context, handle: Runs, watch: Watch = False, json: Json = False) -> None:
    """Take an offer. The other offers of its set are released."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        if batches.named(handle):
            batch = await batches.find(desk, broker, handle)
            return await batches.take(desk, broker, batch, watch=watch, json=json)
        session = await desk.session(broker, handle)
        if session.name == handle and taken(session.phase):
            # Whoever names a run that is under way may mean an offer of the same name; which one is not guessed.
            raise BadInput(
                f'"{handle}" is a run already, {short(session.uuid)} ({session.state}).',
                remedy="Give the rank of an offer: broker accept 1",
            )
        return await _accept(desk, session, None, watch=watch, json=json)

    desk.run(work)


async def _accept(desk: Desk, session: Session, others: int | None, *, watch: bool, json: bool) -> int:
    follower = Follower(desk.screen)
    await session.accept()
    if not taken(session.phase):
        return await _doubt(desk, session, follower, watch=watch, json=json)
    if not json:
        follower.accepted(session, others, watching=watch)
    if watch:
        return await _follow(desk, session, follower, json=json)
    if json:
        desk.screen.json(session.document.to_wire())
    return verdict(session)  # of one that was accepted, and has ended since


async def _doubt(desk: Desk, session: Session, follower: Follower, *, watch: bool, json: bool) -> int:
    """The broker does not yet know whether the site took it. It finds out; nobody sends twice."""
    asking = f"{session.site} is being asked whether it took it. Nothing runs twice."
    desk.screen.note(f"{session.phase}: {session.messages[-1] if session.messages else asking}")
    if watch:
        return await _follow(desk, session, follower, json=json)
    desk.screen.note(f"Look again: broker watch {short(session.uuid)}")
    return Exit.UNDECIDED


async def _follow(desk: Desk, session: Session, follower: Follower, *, json: bool) -> int:
    await session.finished(None if json else follower.show, silent=follower.silent, poll=desk.poll)
    if json:
        desk.screen.json(session.document.to_wire())
    elif session.phase in ("COMPLETED", "FAILED"):
        follower.results(session)
    return verdict(session)


def reject(context: typer.Context, handle: Handle, json: Json = False) -> None:
    """Give an offer back."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        session = await desk.session(broker, handle)
        seen = session.messages
        _state(desk, await session.reject(), seen, json=json)
        return Exit.DONE if session.phase == "REJECTED" else Exit.NO

    desk.run(work)


def cancel(context: typer.Context, handle: Handle, json: Json = False) -> None:
    """End a run."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        session = await desk.session(broker, handle)
        seen = session.messages
        _state(desk, await session.cancel(), seen, json=json)
        if session.phase == "CANCELLED":
            return Exit.DONE
        if session.ended:
            return Exit.NO
        desk.screen.note(
            f"asked {session.site or 'the site'} to end it. Look again: broker watch {short(session.uuid)}"
        )
        return Exit.UNDECIDED

    desk.run(work)


def _state(desk: Desk, session: Session, seen: list[str], *, json: bool) -> None:
    if json:
        desk.screen.json(session.document.to_wire())
    else:
        Follower(desk.screen, seen).show(session)


def watch(context: typer.Context, handle: Runs, json: Json = False) -> None:
    """Follow a run to its end. Interrupting it leaves the run alone."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        if batches.named(handle):
            return await batches.follow(desk, broker, await batches.find(desk, broker, handle), json=json)
        session = await desk.session(broker, handle)
        if session.open:
            raise Conflict(
                f"session {short(session.uuid)} is only offered, nothing runs.",
                remedy=f"First: broker accept {short(session.uuid)}",
            )
        return await _follow(desk, session, Follower(desk.screen), json=json)

    desk.run(work)


def logs(
    context: typer.Context,
    handle: Handle,
    err: Annotated[bool, typer.Option("--err", help="the standard error output only")] = False,
    json: Json = False,
) -> None:
    """Print what a run wrote: its output to the output, its errors to the errors."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        session = await desk.session(broker, handle)
        found = await session.logs()
        if json:
            desk.screen.json({"stdout": found.stdout, "stderr": found.stderr})
            return Exit.DONE
        if found.stdout is None and found.stderr is None:
            raise NotFound(f"{session.site or 'the site'} hands no logs back.")
        if not err:
            _dump(desk, found.stdout)
        if err:
            _dump(desk, found.stderr)
        elif found.stderr:
            desk.screen.err.write(plain(found.stderr, lines=True))
        return Exit.DONE

    desk.run(work)


def _dump(desk: Desk, text: str | None) -> None:
    # A pipe gets the bytes as they are; a terminal gets none that it would obey.
    desk.screen.out.write(plain(text or "", lines=True) if desk.screen.tty else text or "")
    desk.screen.out.flush()


def fetch(
    context: typer.Context,
    handle: Runs,
    names: Annotated[list[str] | None, typer.Argument(help="files; none: all")] = None,
    to: Annotated[Path, typer.Option(help="folder to put them in")] = Path("results"),
    force: Annotated[bool, typer.Option("--force", help="replace files that differ")] = False,
) -> None:
    """Fetch the result files of a run, checksums compared."""
    desk = desks.of(context)

    async def work(broker: Broker) -> int:
        if batches.named(handle):
            return await batches.fetch(desk, broker, await batches.find(desk, broker, handle), to, force=force)
        session = await desk.session(broker, handle)
        files = await session.load_results()
        wanted = names or list(files)
        for name in wanted:
            if name not in files:
                there = f"There are: {', '.join(files)}." if files else f"{session.site} hands no files back."
                raise NotFound(f'no result "{name}".', remedy=there)
        if not wanted:
            desk.screen.note(f"session {short(session.uuid)} ({session.state}): no result files")
            return Exit.NO
        for name in wanted:
            desk.screen.say(plain(await files[name].fetch(to / files[name].safe, overwrite=force)))
        return Exit.DONE

    desk.run(work)


def sessions(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="offers, and what was refused, too")] = False,
    native: Annotated[str | None, typer.Option(help="the one that its platform calls so, such as 48211")] = None,
    json: Json = False,
) -> None:
    """List your runs, newest first."""
    desk = desks.of(context)

    async def work(broker: Broker) -> None:
        lines = await broker.sessions(all=everything, native=native)
        lists.print_sessions(desk.screen, lines, json=json)

    desk.run(work)

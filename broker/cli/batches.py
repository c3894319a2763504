"""The commands on a batch, `each-3c1f`: one table, one acceptance, one asking again. Imports the client.

A batch is kept by the memory, on this machine; its runs are the broker's, and can be named one by one anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from broker.cli.desk import Desk
from broker.cli.exits import Exit
from broker.client import batchtable
from broker.client.batch import Batch, Member, read_rows
from broker.client.batchtable import HANDLE
from broker.client.broker import Broker
from broker.client.compose import Options
from broker.client.words import count, plain, short
from broker.errors import BadInput, NotFound


def named(handle: str | None) -> bool:
    """The handle means a batch."""
    return handle is not None and handle.startswith(HANDLE)


def compose(broker: Broker, what: object, table: Path, options: Callable[[dict[str, str]], Options]) -> Batch:
    return Batch.compose(broker, what, read_rows(table), lambda row: options(dict(row)))


async def find(desk: Desk, broker: Broker, handle: str) -> Batch:
    """As it stands at the broker now. Raises NotFound."""
    kept = desk.memory.batch(str(broker.url), handle.removeprefix(HANDLE))
    if kept is None:
        raise NotFound(f"no batch {handle} is known on this machine.", remedy="Its runs are: broker sessions")
    async with desk.screen.waiting(lambda: "reading the batch"):
        return await Batch.restore(broker, kept)


def keep(desk: Desk, broker: Broker, batch: Batch) -> None:
    desk.memory.remember_batch(str(broker.url), batch.document())


async def ask(
    desk: Desk,
    broker: Broker,
    batch: Batch,
    accept: str | None,
    *,
    ceiling: float | None,
    again: bool,
    watch: bool,
    json: bool,
) -> int:
    """Ask for all, or again for those that failed; show the table; take the best of each where that was asked for and
    no price is above the ceilings."""
    if accept not in (None, "best"):
        raise BadInput(f'"{accept}": of a batch the best are taken.', remedy="Write --accept best.")
    if again and not batch.failed:
        desk.screen.note(f"{batchtable.handle(batch)}: nothing failed, so nothing is asked again.")
        return Exit.DONE
    done, all_ = 0, len(batch.failed) if again else len(batch)

    def progress(number: int) -> None:
        nonlocal done
        done = number

    async with desk.screen.waiting(lambda: f"asking the sites, {done} of {all_}"):
        await (batch.again(progress) if again else batch.ask(progress))
    keep(desk, broker, batch)
    if accept is None or all(member.failed for member in batch):
        show(desk, batch, json=json)
        return Exit.NO if all(member.failed for member in batch) else Exit.DONE
    batch.guard(ceiling)
    return await take(desk, broker, batch, watch=watch, json=json)


def show(desk: Desk, batch: Batch, *, json: bool) -> None:
    if json:
        desk.screen.json(batch.document())
    elif desk.screen.tty:
        desk.screen.say(batchtable.table(batch, desk.screen.look()))
    else:
        desk.screen.say(batchtable.tsv(batch))


async def take(desk: Desk, broker: Broker, batch: Batch, *, watch: bool, json: bool) -> int:
    async with desk.screen.waiting(lambda: "accepting"):
        await batch.accept()
    keep(desk, broker, batch)
    if watch:
        return await follow(desk, broker, batch, json=json)
    show(desk, batch, json=json)
    return _exit(batch)


async def follow(desk: Desk, broker: Broker, batch: Batch, *, json: bool) -> int:
    """A line for each run that ends, then the table."""

    def tell(member: Member) -> None:
        if not json and member.session is not None:
            why = batchtable.why(member)
            desk.screen.say(
                f"{member.state:<10} {plain(member.name)}. Session {short(member.session.uuid)}. {why}".rstrip()
            )

    def left() -> str:
        return f"{count(sum(not member.ended for member in batch if member.session is not None), 'run')} to go"

    async with desk.screen.waiting(left):
        await batch.finished(tell, poll=desk.poll)
    keep(desk, broker, batch)
    show(desk, batch, json=json)
    return _exit(batch)


async def fetch(desk: Desk, broker: Broker, batch: Batch, to: Path, *, force: bool) -> int:
    """Every result of every run that is COMPLETED, in a folder for each run."""
    found = False
    for member in batch:
        if member.session is None or member.session.phase != "COMPLETED":
            continue
        for file in (await member.session.load_results()).values():
            found = True
            folder = to / (Path(plain(member.name)).name or short(member.session.uuid))
            desk.screen.say(plain(await file.fetch(folder / file.safe, overwrite=force)))
    if not found:
        desk.screen.note(f"{batchtable.handle(batch)}: no result files yet")
    return Exit.DONE if found else Exit.NO


def _exit(batch: Batch) -> int:
    if not batch.failed:
        return Exit.DONE
    return Exit.NO if all(member.session is None for member in batch) else Exit.RUN_FAILED

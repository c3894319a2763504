"""Brings a job's data, and a program that lies elsewhere, into a folder of the broker's machine: `python -m
adapters.containers.staging FOLDER`, a child of the broker, so that it can be ended at any moment. Imports the standard
library, and of ours what imports no more.

FOLDER/wanted.json says what; it is brought to FOLDER/store. Exit 0: all is in place. Exit 1: the last line on stderr
says in one sentence what is wrong.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from adapters.local.bringing import Bringer
from adapters.local.fetching import StagingError, fetch
from adapters.local.layout import Datum, read_json
from adapters.local.transfers import Report

WANTED, STORE = "wanted.json", "store"


def stage(folder: Path) -> None:
    """Raises StagingError, OSError."""
    wanted = read_json(folder / WANTED) or {}
    store = folder / STORE
    store.mkdir(exist_ok=True)
    if wanted["program"]:
        fetch(wanted["program"], store / wanted["script"], (), wanted["most_source"])
    room, bringer = wanted["most"], Bringer(store, ())
    with closing(Report(folder)) as report:
        for entry in wanted["data"]:
            transfer = bringer.bring(Datum(**entry), room)
            room -= transfer.bytes
            report.add(transfer)


def main(arguments: list[str]) -> int:
    try:
        stage(Path(arguments[0]))
    except (StagingError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

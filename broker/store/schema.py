"""The tables of the SQLite store, and how an older file is brought forward. Imports errors.

A migration is a tuple of statements; migration number n (from 1) leads to version n, which the file carries in
`PRAGMA user_version`. Published migrations are never changed: a new one is added at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from broker.errors import SettingsError

APPLICATION_ID = 0x46454252  # "FEBR": tells a file of ours from another program's

# One statement, so one moment: another process may be making the file just now.
STATE = """SELECT
    (SELECT user_version FROM pragma_user_version),
    (SELECT application_id FROM pragma_application_id),
    (SELECT count(*) FROM sqlite_master)"""

Migrations = Sequence[Sequence[str]]

MIGRATIONS: Migrations = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE aggregates (
            key     TEXT PRIMARY KEY,
            version INTEGER NOT NULL,
            record  BLOB NOT NULL
        )""",
        # Bodies lie apart, so that a change of the record need not rewrite them.
        """CREATE TABLE bodies (
            aggregate TEXT PRIMARY KEY,
            written   REAL NOT NULL,
            body      BLOB NOT NULL
        )""",
        "CREATE INDEX bodies_by_age ON bodies (written)",
        # `ready`: when the timer may be claimed, its due time or the end of the present lease.
        """CREATE TABLE timers (
            aggregate TEXT NOT NULL,
            key       TEXT NOT NULL,
            due       REAL NOT NULL,
            ready     REAL NOT NULL,
            token     TEXT,
            PRIMARY KEY (aggregate, key)
        ) WITHOUT ROWID""",
        "CREATE INDEX timers_by_ready ON timers (ready)",
        """CREATE TABLE listings (
            kind      TEXT NOT NULL,
            id        TEXT NOT NULL,
            aggregate TEXT NOT NULL,
            owner     TEXT NOT NULL,
            created   REAL NOT NULL,
            phase     TEXT NOT NULL,
            name      TEXT NOT NULL,
            site      TEXT NOT NULL,
            PRIMARY KEY (kind, id)
        ) WITHOUT ROWID""",
        "CREATE INDEX listings_by_time ON listings (kind, created, id)",
        "CREATE INDEX listings_by_owner ON listings (kind, owner, created, id)",
        "CREATE INDEX listings_by_aggregate ON listings (aggregate)",
        # The dashboard polls the counts; the triggers keep them, so that nobody has to scan the lines.
        """CREATE TABLE counts (
            kind   TEXT NOT NULL,
            site   TEXT NOT NULL,
            phase  TEXT NOT NULL,
            number INTEGER NOT NULL,
            PRIMARY KEY (kind, site, phase)
        ) WITHOUT ROWID""",
        """CREATE TRIGGER listing_added AFTER INSERT ON listings BEGIN
            INSERT INTO counts VALUES (new.kind, new.site, new.phase, 1)
                ON CONFLICT (kind, site, phase) DO UPDATE SET number = number + 1;
        END""",
        """CREATE TRIGGER listing_changed AFTER UPDATE OF site, phase ON listings
        WHEN old.site <> new.site OR old.phase <> new.phase BEGIN
            UPDATE counts SET number = number - 1
                WHERE kind = old.kind AND site = old.site AND phase = old.phase;
            INSERT INTO counts VALUES (new.kind, new.site, new.phase, 1)
                ON CONFLICT (kind, site, phase) DO UPDATE SET number = number + 1;
        END""",
        """CREATE TRIGGER listing_removed AFTER DELETE ON listings BEGIN
            UPDATE counts SET number = number - 1
                WHERE kind = old.kind AND site = old.site AND phase = old.phase;
        END""",
        "CREATE TABLE books (site TEXT PRIMARY KEY, version INTEGER NOT NULL)",
        """CREATE TABLE bookings (
            site    TEXT NOT NULL,
            id      TEXT NOT NULL,
            "set"   TEXT NOT NULL,
            start   REAL NOT NULL,
            "end"   REAL NOT NULL,
            amounts BLOB NOT NULL,
            until   REAL,
            PRIMARY KEY (site, id)
        ) WITHOUT ROWID""",
        'CREATE INDEX bookings_by_end ON bookings (site, "end")',
        # `full`: when the bucket will be full again, in integer nanoseconds; from then on the row says nothing.
        'CREATE TABLE buckets (key TEXT PRIMARY KEY, "full" INTEGER NOT NULL) WITHOUT ROWID',
        'CREATE INDEX buckets_by_full ON buckets ("full")',
        """CREATE TABLE members (
            key    TEXT NOT NULL,
            member TEXT NOT NULL,
            until  REAL NOT NULL,
            PRIMARY KEY (key, member)
        ) WITHOUT ROWID""",
        "CREATE INDEX members_by_end ON members (until)",
        "CREATE TABLE pulse (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL)",
    ),
)


def check(connection: sqlite3.Connection, migrations: Migrations = MIGRATIONS) -> int:
    """The file's version, 0 for an empty one. SettingsError for a file of a newer version or of another program."""
    version, mark, objects = connection.execute(STATE).fetchone()
    if mark != APPLICATION_ID and (mark, version, objects) != (0, 0, 0):
        raise SettingsError("the file is a database of another program.", remedy="Name another file.")
    if version > len(migrations):
        raise SettingsError(
            f"the file was written by a newer broker (its schema is {version}, this one knows {len(migrations)}).",
            remedy="Run the newer broker, or name another file.",
        )
    return int(version)


def migrate(connection: sqlite3.Connection, migrations: Migrations = MIGRATIONS) -> None:
    """Bring the file to the last of `migrations`, wholly or not at all. Raises what `check` raises."""
    if check(connection, migrations) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check(connection, migrations)  # again: another process may have migrated while we waited
        for number in range(version, len(migrations)):
            for statement in migrations[number]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")

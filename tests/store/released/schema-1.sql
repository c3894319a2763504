-- What the first release wrote: its tables, and a little of everything in them. Never changed.
PRAGMA application_id = 1178944082;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE aggregates (
            key     TEXT PRIMARY KEY,
            version INTEGER NOT NULL,
            record  BLOB NOT NULL
        );
INSERT INTO "aggregates" VALUES('a',1,X'52');
INSERT INTO "aggregates" VALUES('broker',1,X'7573');
CREATE TABLE bodies (
            aggregate TEXT PRIMARY KEY,
            written   REAL NOT NULL,
            body      BLOB NOT NULL
        );
INSERT INTO "bodies" VALUES('a',1800000000.0,X'42');
CREATE TABLE bookings (
            site    TEXT NOT NULL,
            id      TEXT NOT NULL,
            "set"   TEXT NOT NULL,
            start   REAL NOT NULL,
            "end"   REAL NOT NULL,
            amounts BLOB NOT NULL,
            until   REAL,
            PRIMARY KEY (site, id)
        ) WITHOUT ROWID;
INSERT INTO "bookings" VALUES('here','b-1','a',1800000000.0,1800000060.0,X'7B22636F726573223A322E307D',NULL);
CREATE TABLE books (site TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "books" VALUES('here',1);
CREATE TABLE buckets (key TEXT PRIMARY KEY, "full" INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counts (
            kind   TEXT NOT NULL,
            site   TEXT NOT NULL,
            phase  TEXT NOT NULL,
            number INTEGER NOT NULL,
            PRIMARY KEY (kind, site, phase)
        ) WITHOUT ROWID;
INSERT INTO "counts" VALUES('session','alba','RUNNING',1);
CREATE TABLE listings (
            kind      TEXT NOT NULL,
            id        TEXT NOT NULL,
            aggregate TEXT NOT NULL,
            owner     TEXT NOT NULL,
            created   REAL NOT NULL,
            phase     TEXT NOT NULL,
            name      TEXT NOT NULL,
            site      TEXT NOT NULL,
            PRIMARY KEY (kind, id)
        ) WITHOUT ROWID;
INSERT INTO "listings" VALUES('session','s-1','a','here|ada',1.0,'RUNNING','fit','alba');
CREATE TABLE members (
            key    TEXT NOT NULL,
            member TEXT NOT NULL,
            until  REAL NOT NULL,
            PRIMARY KEY (key, member)
        ) WITHOUT ROWID;
INSERT INTO "members" VALUES('k','m',1800000060.0);
CREATE TABLE pulse (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL);
CREATE TABLE timers (
            aggregate TEXT NOT NULL,
            key       TEXT NOT NULL,
            due       REAL NOT NULL,
            ready     REAL NOT NULL,
            token     TEXT,
            PRIMARY KEY (aggregate, key)
        ) WITHOUT ROWID;
INSERT INTO "timers" VALUES('a','t',1800000005.0,1800000005.0,NULL);
CREATE INDEX bodies_by_age ON bodies (written);
CREATE INDEX timers_by_ready ON timers (ready);
CREATE INDEX listings_by_time ON listings (kind, created, id);
CREATE INDEX listings_by_owner ON listings (kind, owner, created, id);
CREATE INDEX listings_by_aggregate ON listings (aggregate);
CREATE TRIGGER listing_added AFTER INSERT ON listings BEGIN
            INSERT INTO counts VALUES (new.kind, new.site, new.phase, 1)
                ON CONFLICT (kind, site, phase) DO UPDATE SET number = number + 1;
        END;
CREATE TRIGGER listing_changed AFTER UPDATE OF site, phase ON listings
        WHEN old.site <> new.site OR old.phase <> new.phase BEGIN
            UPDATE counts SET number = number - 1
                WHERE kind = old.kind AND site = old.site AND phase = old.phase;
            INSERT INTO counts VALUES (new.kind, new.site, new.phase, 1)
                ON CONFLICT (kind, site, phase) DO UPDATE SET number = number + 1;
        END;
CREATE TRIGGER listing_removed AFTER DELETE ON listings BEGIN
            UPDATE counts SET number = number - 1
                WHERE kind = old.kind AND site = old.site AND phase = old.phase;
        END;
CREATE INDEX bookings_by_end ON bookings (site, "end");
CREATE INDEX buckets_by_full ON buckets ("full");
CREATE INDEX members_by_end ON members (until);
COMMIT;

"""What the command remembers between two calls: the last offer set, so that `broker accept 1` has a meaning, and the
batches, of which no broker knows.

Files under XDG_STATE_HOME (`~/.local/state`). Losing it costs a look-up, never a job: everything true is at the
broker. Imports the standard library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Memory:
    path: Path

    @classmethod
    def real(cls, environ: Mapping[str, str] = os.environ) -> Memory:
        home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local" / "state")
        return cls(Path(home) / "broker" / "last.json")

    def last_set(self, url: str) -> str | None:
        """The uuid of the set last shown by the broker at `url`; None: there is none."""
        try:
            entry = json.loads(self.path.read_text())
            return str(entry["sets"][url])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, url: str, uuid: str) -> None:
        """Where it cannot be written, it is not remembered: a full disk must not fail a submission."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            fresh.write_text(json.dumps({"sets": {**self._sets(), url: uuid}}))
            fresh.replace(self.path)
        except OSError:
            return

    def batch(self, url: str, begins: str) -> dict[str, Any] | None:
        """The batch at that broker whose uuid begins so; the youngest, should there be several."""
        found = []
        for path in self._batches.glob("*.json"):
            try:
                document = json.loads(path.read_text())
                if document["url"] == url and begins and str(document["uuid"]).startswith(begins):
                    found.append((path.stat().st_mtime_ns, document))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def remember_batch(self, url: str, document: Mapping[str, Any]) -> None:
        """A full disk must not fail a submission; yet without this file a batch falls apart into its runs."""
        try:
            self._batches.mkdir(parents=True, exist_ok=True, mode=0o700)  # requests may hold secrets
            fresh = self._batches / f".{document['uuid']}.{os.getpid()}"
            fresh.write_text(json.dumps({**document, "url": url}))
            fresh.replace(self._batches / f"{document['uuid']}.json")
        except OSError:
            return

    @property
    def _batches(self) -> Path:
        return self.path.parent / "batches"

    def _sets(self) -> dict[str, str]:
        try:
            sets = json.loads(self.path.read_text())["sets"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return sets if isinstance(sets, dict) else {}

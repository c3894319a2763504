"""What the command remembers between two calls: the last offer set, so that `broker accept 1` has a meaning.

One file under XDG_STATE_HOME (`~/.local/state`). Losing it costs a look-up, never a job: everything true is at the
broker. Imports the standard library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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

    def _sets(self) -> dict[str, str]:
        try:
            sets = json.loads(self.path.read_text())["sets"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return sets if isinstance(sets, dict) else {}

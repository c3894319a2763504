"""What came of asking one site: exactly one of five outcomes, as data. Imports the domain's models.

A site's failure is never an exception that could reach its neighbours (design, section 3).
"""

from __future__ import annotations

import msgspec


class Quote(msgspec.Struct, frozen=True):
    """One offer as a planner hands it over. `handle` is the site's own name of the session, needed to act on it;
    `body` is the execution session in JSON, as the site (or its planner) wrote it."""

    handle: str
    body: bytes


class Reason(msgspec.Struct, frozen=True):
    """Why a site says no. `element` is the dotted path in the request, or empty; `nearest` the nearest YES."""

    text: str
    element: str = ""
    rule: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        text = f"{self.element}: {self.text}" if self.element else self.text
        if not self.nearest:
            return text
        return f"{text}{'' if text.endswith(('.', '!', '?')) else '.'} Nearest yes: {self.nearest}."


class Offered(msgspec.Struct, frozen=True, tag=True):
    quotes: tuple[Quote, ...]
    latency: float = 0.0  # seconds from our asking to the whole answer


class Declined(msgspec.Struct, frozen=True, tag=True):
    """`retry_after` (seconds): the site itself said when asking again may help."""

    reasons: tuple[Reason, ...]
    latency: float = 0.0
    retry_after: float | None = None


class TimedOut(msgspec.Struct, frozen=True, tag=True):
    reason: Reason
    latency: float = 0.0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`acts` names who can mend it: site, operator or user."""

    reason: Reason
    latency: float = 0.0
    acts: str = "site"


class Skipped(msgspec.Struct, frozen=True, tag=True):
    """Not asked: not eligible, draining, breaker open, no token in time. `retry_after` where it is known."""

    reason: Reason
    latency: float = 0.0
    retry_after: float | None = None
    acts: str = ""


Outcome = Offered | Declined | TimedOut | Failed | Skipped

"""Every error this program raises on purpose, drawn as a tree. Imports nothing.

    BrokerError
    ├── BadInput               the caller's input: names the element and the remedy
    │   ├── Malformed          not JSON, YAML … at all, or beyond the decoder's guards
    │   ├── Dangling           a reference between components that leads nowhere
    │   └── UnknownKind        a kind nobody here can run
    ├── NotSignedIn            no or wrong credentials
    ├── NotAllowed             signed in, but not theirs to do
    ├── NotFound
    ├── Conflict               cannot be done in the present state; says which
    ├── KeyReused              an Idempotency-Key that belongs to another request
    ├── TooLarge
    ├── UnsupportedMediaType
    ├── NotAcceptable
    ├── TooMany                over a cap or rate; says when to come back
    ├── Unavailable            nothing was done; says when to come back
    │   └── Unconfirmed        it was written, but a failover may still lose it
    ├── LoopDetected           the request has been here already
    ├── SettingsError          a file, key or value of the configuration
    └── SiteError              what a planner raises; says whether the site can have acted
        ├── SiteUnreachable    surely not sent
        ├── SiteRefused        a 4xx to the only send: the site says it did not act
        ├── SiteForbids        the credentials for the site are wrong or have ended
        ├── SiteBusy           the site asks to come back later
        │   └── NotAsked       our own guard held the call back: no token, no room, breaker open
        ├── SiteTimeout        sent, no answer by the deadline
        ├── SiteMisbehaved     sent, and answered with something that is no answer
        └── SiteForgot         the site knows no such session

A service never knows HTTP: the table from these classes to status codes is `broker/api/problems.py`.
"""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all. `detail` is one sentence for a person; `remedy` says what to do next, or is empty."""

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".strip()


class BadInput(BrokerError):
    """`element` is the dotted path of the offending element, such as `compute.memory.min`; empty: the whole."""

    def __init__(self, detail: str, *, element: str = "", remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy)
        self.element = element

    def __str__(self) -> str:
        return f"{self.element}: {super().__str__()}" if self.element else super().__str__()


class Malformed(BadInput): ...


class Dangling(BadInput): ...


class UnknownKind(BadInput): ...


class NotSignedIn(BrokerError): ...


class NotAllowed(BrokerError): ...


class NotFound(BrokerError): ...


class Conflict(BrokerError):
    """`retry_after`: seconds after which it may be over; None: it does not pass by itself."""

    def __init__(self, detail: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail, remedy=remedy)
        self.retry_after = retry_after


class KeyReused(BrokerError): ...


class TooLarge(BrokerError): ...


class UnsupportedMediaType(BrokerError): ...


class NotAcceptable(BrokerError): ...


class Unavailable(BrokerError):
    """`retry_after` is in seconds."""

    def __init__(self, detail: str, *, remedy: str = "", retry_after: float = 5.0) -> None:
        super().__init__(detail, remedy=remedy)
        self.retry_after = retry_after


class Unconfirmed(Unavailable):
    """A write that is made on the store's server, while no replica of it has confirmed to have it."""


class TooMany(Unavailable): ...


class LoopDetected(BrokerError): ...


class SettingsError(BrokerError):
    """`file` is empty for values that came from the environment; `key` is a dotted path."""

    def __init__(self, detail: str, *, file: str = "", key: str = "", remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy)
        self.file = file
        self.key = key

    def __str__(self) -> str:
        where = " ".join(part for part in (self.file, self.key) if part)
        return f"{where}: {super().__str__()}" if where else super().__str__()


class SiteError(BrokerError):
    """What went wrong at a site, as that site's planner saw it.

    `proof` is True only where the site surely did not act on the call. Acceptance rests on it: everything
    without proof is doubt, and doubt is resolved by reading, never by sending elsewhere.
    `acts` names who can mend it: "site", "operator" (ours) or "user".
    """

    proof = False
    acts = "site"


class SiteUnreachable(SiteError):
    proof = True


class SiteRefused(SiteError):
    """`status` is the HTTP status where there was one; 408 and 409 are doubt, not proof (design, acceptance)."""

    def __init__(self, detail: str, *, status: int | None = None, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy)
        self.status = status
        self.proof = status not in (408, 409)


class SiteForbids(SiteError):
    proof = True
    acts = "operator"


class SiteBusy(SiteError):
    """`retry_after` is in seconds; the site did not act."""

    proof = True

    def __init__(self, detail: str, *, retry_after: float = 5.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotAsked(SiteBusy): ...


class SiteTimeout(SiteError): ...


class SiteMisbehaved(SiteError): ...


class SiteForgot(SiteError): ...

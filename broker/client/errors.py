"""What only a client can run into, under the program's own tree (broker/errors.py). Imports errors alone.

    BrokerError
    ├── NoBroker       nothing says which broker to ask
    ├── Unreachable    no connection, or no answer in time; says whether the broker can have acted
    ├── Misanswered    an answer that is none of an Execution Broker's, or its own failure (5xx)
    ├── Undecided      an acceptance that nobody can yet call taken or refused
    └── BadInput
        └── BadRequestFile   a request that is wrong before it is sent: names file, line and element

Refusals that the broker words itself come as the classes of broker/errors.py: BadInput, NotSignedIn, NotAllowed,
NotFound, Conflict, TooLarge, TooMany, Unavailable …
"""

from __future__ import annotations

from broker.errors import BadInput, BrokerError


class NoBroker(BrokerError):
    """Nothing says which broker to ask."""


class Unreachable(BrokerError):
    """`sent`: the request may have reached the broker, so it may have acted. False: it surely has not."""

    def __init__(self, detail: str, *, remedy: str = "", sent: bool = False) -> None:
        super().__init__(detail, remedy=remedy)
        self.sent = sent


class Misanswered(BrokerError):
    """`status` is the HTTP status."""

    def __init__(self, detail: str, *, remedy: str = "", status: int = 0) -> None:
        super().__init__(detail, remedy=remedy)
        self.status = status


class Undecided(BrokerError):
    """An acceptance that nobody can yet call taken or refused. Read the session; repeating the acceptance is safe."""


class BadRequestFile(BadInput):
    """`file:line element "value": detail remedy`, as much of it as is known. `line` counts from 1; 0: not known."""

    def __init__(
        self, detail: str, *, element: str = "", remedy: str = "", value: object = None, file: str = "", line: int = 0
    ) -> None:
        super().__init__(detail, element=element, remedy=remedy)
        self.value = value
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        value = "" if self.value is None else f'"{str(self.value)[:60]}"'
        head = " ".join(part for part in (where, self.element, value) if part)
        text = f"{self.detail} {self.remedy}".strip()
        return f"{head}: {text}" if head else text

"""What a command's end means to a shell, and each error as one line. Imports errors and the client's."""

from __future__ import annotations

from enum import IntEnum

from broker.client.errors import Misanswered, NoBroker, Undecided, Unreachable
from broker.client.words import plain
from broker.errors import (
    BrokerError,
    Conflict,
    LoopDetected,
    NotAllowed,
    NotSignedIn,
    Unavailable,
)


class Exit(IntEnum):
    DONE = 0
    RUN_FAILED = 1
    BAD_INPUT = 2
    NO = 3
    LOG_IN = 4
    UNREACHABLE = 5
    UNDECIDED = 6


# The first class that an error is of decides; what is in no line here is the caller's to mend.
_CODES: tuple[tuple[type[BrokerError], Exit], ...] = (
    (Conflict, Exit.NO),
    (NotSignedIn, Exit.LOG_IN),
    (NotAllowed, Exit.LOG_IN),
    (NoBroker, Exit.UNREACHABLE),
    (Unreachable, Exit.UNREACHABLE),
    (Misanswered, Exit.UNREACHABLE),
    (Unavailable, Exit.UNREACHABLE),
    (LoopDetected, Exit.UNREACHABLE),
    (Undecided, Exit.UNDECIDED),
)


def code(error: BrokerError) -> Exit:
    return next((exit_ for kind, exit_ in _CODES if isinstance(error, kind)), Exit.BAD_INPUT)


def one_line(error: BrokerError) -> str:
    """The error, and what to do next, in one line that no terminal obeys."""
    text = " ".join(plain(error).split())
    if isinstance(error, NotSignedIn) and not error.remedy:
        text += " Run: broker login URL --user NAME"
    own = isinstance(error, NoBroker | Unreachable | Misanswered)
    return f"broker: {text}" if own else text

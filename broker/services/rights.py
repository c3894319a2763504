"""Who may read and who may change a record. Imports the domain alone.

A session is its maker's alone to change; who may read it is a setting (`access.readers`).
"""

from __future__ import annotations

from typing import Literal

from broker.domain.identity import Caller
from broker.domain.offerset import SetRecord
from broker.errors import NotAllowed, NotFound

Readers = Literal["own", "all", "public"]


def owns(record: SetRecord, caller: Caller) -> bool:
    """The owner, by the account that asked: two brokers may know two people by one name."""
    return record.owner.key == caller.owner.key and record.account == caller.account


def may_change(record: SetRecord, caller: Caller) -> bool:
    return owns(record, caller) or caller.may("administrator")


def must_read(record: SetRecord, caller: Caller, readers: Readers) -> None:
    """Raises NotFound, so that nobody learns by asking which sessions exist."""
    if owns(record, caller) or caller.may("operator"):
        return
    if readers == "public" or (readers == "all" and not caller.anonymous):
        return
    raise NotFound("no such offer set or session of yours here.", remedy="List yours with GET /sessions.")


def must_change(record: SetRecord, caller: Caller, readers: Readers) -> None:
    """Raises NotFound where reading is not allowed either, else NotAllowed."""
    must_read(record, caller, readers)
    if not may_change(record, caller):
        raise NotAllowed("only whoever asked for a session may change it.", remedy="Ask its owner.")

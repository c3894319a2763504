"""The headers by which brokers know each other: names, forms, and the time a child may take. Imports the domain.

They are ours, not the standard's; a plain 1.0 service ignores them.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from broker.domain.identity import Owner
from broker.errors import BadInput

DEADLINE = "Broker-Deadline"  # request: whole milliseconds left to answer
PATH = "Broker-Path"  # request: ids of the brokers passed, comma-separated, oldest first
REQUEST = "Broker-Request"  # request: uuid of the first broker's request
USER = "Broker-User"  # request: the end user, believed from accounts with the role broker
BATCH = "Broker-Batch"  # request: uuid that the requests of one batch share; it counts once against caps on open sets
ID = "Broker-Id"  # response: the id of the broker that answers

LONGEST_PATH = 8


def share(left: float) -> float:
    """Seconds within which a child given `left` seconds answers: some are the parent's, for the way and the ranking."""
    return max(0.0, left - max(0.05, 0.1 * left))


def encode_user(owner: Owner) -> str:
    """`issuer subject [group …]`, each percent-encoded, separated by spaces."""
    return " ".join(quote(part, safe="") for part in (owner.issuer, owner.subject, *owner.groups))


def decode_user(text: str) -> Owner:
    """The inverse. Raises BadInput."""
    parts = [unquote(part) for part in text.split(" ")]
    if len(parts) < 2 or not all(parts[:2]) or len(text) > 4000:
        raise BadInput(
            f"the header {USER} holds issuer and subject, percent-encoded, with a space between.", element=USER
        )
    return Owner(parts[0], parts[1], tuple(parts[2:]))


def decode_path(text: str) -> tuple[str, ...]:
    """Broker ids, oldest first. Length is judged by whoever knows our own id."""
    return tuple(part.strip() for part in text.split(",") if part.strip())

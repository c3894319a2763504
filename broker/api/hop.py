"""The headers by which a broker above tells how a request came here. Imports the domain and aiohttp.

Names and meaning: broker/domain/hops.py. They are read before the body, so that a loop costs nothing.
"""

from __future__ import annotations

import re
from uuid import UUID

from aiohttp import web

from broker.domain import hops
from broker.domain.identity import Hop
from broker.errors import BadInput, LoopDetected

_MILLISECONDS = re.compile(r"[0-9]{1,9}")
_BROKER = re.compile(r"[A-Za-z0-9._:-]{1,100}")


def read_hop(request: web.BaseRequest, own: str) -> Hop:
    """Raises LoopDetected when `own`, our broker id, is in the path or the path is too long; BadInput for a header
    that cannot be read. `left` is what the header says: how much of it we may use is `hops.share`."""
    path = _path(request)
    if own in path:
        raise LoopDetected(
            f"this broker has had the request already; it came by {', '.join(path)}.",
            remedy="Take one of these brokers out of another's sites.",
        )
    if len(path) > hops.LONGEST_PATH:
        raise LoopDetected(f"the request has passed {len(path)} brokers; {hops.LONGEST_PATH} are the most.")
    return Hop(_left(request), _uuid(request, hops.REQUEST), path, _uuid(request, hops.BATCH))


def _path(request: web.BaseRequest) -> tuple[str, ...]:
    path = hops.decode_path(",".join(request.headers.getall(hops.PATH, [])))
    if not all(map(_BROKER.fullmatch, path)):
        raise BadInput("broker ids with commas between are wanted.", element=hops.PATH)
    return path


def _left(request: web.BaseRequest) -> float | None:
    text = request.headers.get(hops.DEADLINE)
    if text is None:
        return None
    if not _MILLISECONDS.fullmatch(text.strip()):
        raise BadInput("whole milliseconds are wanted.", element=hops.DEADLINE)
    return int(text) / 1000


def _uuid(request: web.BaseRequest, name: str) -> UUID | None:
    text = request.headers.get(name)
    try:
        return UUID(text) if text is not None else None
    except ValueError:
        raise BadInput("a UUID is wanted.", element=name) from None

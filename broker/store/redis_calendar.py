"""The calendar of the sites that we plan for, in a Redis. Imports ports and its sisters.

A site's book is a hash of its bookings beside its version and the last operations on it, and an order of the same
bookings by when each ceases to charge anything, so that reading costs no more than what still counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from broker.ports import Book, Booking, Clock
from broker.store.redis_nodes import Arg, Nodes, Script, partition_of

KEPT = 86_400.0  # seconds a booking is kept after it charges nothing any more: readers may lag behind the clock
REMEMBERED = 32  # operations on a book: more than others can do to it while the answer to one is lost

READ = Script(
    """
    local book = KEYS[1] .. ':book:' .. ARGV[1]
    local ids = redis.call('ZRANGEBYSCORE', book .. ':ends', '(' .. ARGV[2], '+inf')
    local found = {redis.call('HGET', book, 'version') or '0'}
    for first = 1, #ids, 1000 do
        local fields = {}
        for n = first, math.min(first + 999, #ids) do fields[#fields + 1] = 'b' .. ids[n] end
        for _, row in ipairs(redis.call('HMGET', book, unpack(fields))) do found[#found + 1] = row end
    end
    return found
    """,
    "no-writes",
)

# ARGV: site, version, operation, how many of those to remember, the time, for how long to keep what ended, how many to
# cut, their ids, and three of each to put: id, when it ceases to charge, the booking.
_WRITE = """
    local book = KEYS[1] .. ':book:' .. ARGV[1]
    local ends = book .. ':ends'
    local operations = redis.call('HGET', book, 'operations') or ''
    if string.find(operations, ARGV[3], 1, true) then
        redis.call('HSET', book, 'operations', operations)  -- for WAIT: this connection wrote
        return 1
    end
    if (redis.call('HGET', book, 'version') or '0') ~= ARGV[2] then return 0 end

    local function drop(id)
        redis.call('HDEL', book, 'b' .. id)
        redis.call('ZREM', ends, id)
    end
    local put = 8 + ARGV[7]
    for n = 8, put - 1 do drop(ARGV[n]) end
    for n = put, #ARGV, 3 do
        redis.call('HSET', book, 'b' .. ARGV[n], ARGV[n + 2])
        redis.call('ZADD', ends, ARGV[n + 1], ARGV[n])
    end
    local before = string.format('(%.17g', now(ARGV[5]) - ARGV[6])
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', before)) do drop(id) end
    operations = string.sub(ARGV[3] .. operations, 1, #ARGV[3] * ARGV[4])
    redis.call('HSET', book, 'version', string.format('%.0f', ARGV[2] + 1), 'operations', operations)
    return 1
"""
WRITE = Script(_WRITE)
CUT = Script(_WRITE, "allow-oom")  # the same, where it only frees memory

ROW = msgspec.msgpack.Decoder(tuple[str, str, float, float, dict[str, float], float | None])


class RedisCalendar:
    """The Calendar port. A site that was never written has version 0 and no bookings. A write is confirmed by as many
    replicas as the address wants; Unconfirmed is raised where it is made and they are too few."""

    def __init__(self, nodes: Nodes, clock: Clock | None = None) -> None:
        """`clock` None: the server's."""
        self._nodes, self._clock = nodes, clock

    async def read(self, site: str, now: float) -> Book:
        version, *rows = await self._nodes.run(READ, partition_of(site), site, now)
        return Book(int(version), tuple(sorted(map(_booking, rows), key=lambda one: (one.start, one.id))))

    async def write(self, site: str, version: int, put: Sequence[Booking], remove: Sequence[str] = ()) -> bool:
        clock: Arg = "" if self._clock is None else self._clock.now()
        args: list[Arg] = [site, version, secrets.token_hex(8), REMEMBERED, clock, KEPT, len(remove)]
        args += remove
        for booking in put:
            args += _put(booking)
        script = WRITE if put else CUT
        return bool(await self._nodes.run(script, partition_of(site), *args, confirm=True))


def _put(booking: Booking) -> tuple[Arg, ...]:
    ceases = booking.end if booking.until is None else min(booking.end, booking.until)
    start, end, until = booking.start, booking.end, booking.until
    row = msgspec.msgpack.encode((booking.id, booking.set, start, end, dict(booking.amounts), until))
    return booking.id, ceases, row


def _booking(row: bytes) -> Booking:
    return Booking(*ROW.decode(row))

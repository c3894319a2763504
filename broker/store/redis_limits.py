"""Rates and caps in a Redis. Imports ports and its sisters.

Both are judged by the server's clock, and no replica is waited for: a failover may forget the last tokens and members,
which costs a site a few calls too many, and no job. A clock that is set back cannot lock a bucket for longer than it
takes to fill. All keys end by themselves.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

from broker.ports import Clock
from broker.store.redis_batch import Batch
from broker.store.redis_nodes import Nodes, Script, partition_of

SECOND = 1_000_000  # buckets count integer microseconds: those since 1970 are exact in Lua's numbers until 2255

# ARGV: the time, the operation id, for how many milliseconds to remember it; then for each root its questions.
# What a batch answered is kept when it took a token: repeated after a lost answer, it takes no second one.
ASK = Script("""
    local KEPT, SLACK = 60000, 1  -- milliseconds a key outlives its use; microseconds that rounding may cost
    local at = now(ARGV[1])
    local micro = math.floor(at * 1000000 + 0.5)
    local memory = KEYS[1] .. ':took:' .. ARGV[2]
    local known = redis.call('GET', memory)
    if known then return cmsgpack.unpack(known) end
    local took = false

    local function take(key, step, burst)
        local empty = micro + burst * step
        local stored = tonumber(redis.call('GET', key) or 0)
        local full = math.min(math.max(stored, micro), empty)
        local wait = full + step - empty
        if wait <= SLACK then
            wait, full, took = 0, full + step, true
        elseif full == stored then
            return wait
        end
        -- Also a refusal is written when the clock was set back or the limit changed: no emptier than empty.
        local rest = math.ceil((full - micro) / 1000) + KEPT
        redis.call('SET', key, string.format('%.0f', full), 'PX', string.format('%.0f', rest))
        return wait
    end

    local function enter(key, member, ceiling, ends)
        redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.17g', at))
        if not redis.call('ZSCORE', key, member) and redis.call('ZCARD', key) >= ceiling then return 0 end
        redis.call('ZADD', key, 'GT', string.format('%.17g', ends), member)
        local rest = (tonumber(redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]) - at) * 1000 + KEPT
        if rest < 1e12 then
            redis.call('PEXPIRE', key, string.format('%.0f', math.max(rest, KEPT)))
        else
            redis.call('PERSIST', key)
        end
        return 1
    end

    local answers = {}
    for n, root in ipairs(KEYS) do
        for _, asked in ipairs(cmsgpack.unpack(ARGV[3 + n])) do
            local what, key, a, b, c = unpack(asked)
            local answer
            if what == 'take' then answer = take(root .. ':rate:' .. key, a, b)
            else answer = enter(root .. ':cap:' .. key, a, b, c) end
            answers[#answers + 1] = answer
        end
    end
    if took then redis.call('SET', memory, cmsgpack.pack(answers), 'PX', ARGV[3]) end
    return answers
""")

LEAVE = Script(
    """
    local answers = {}
    for n, root in ipairs(KEYS) do
        for _, asked in ipairs(cmsgpack.unpack(ARGV[n])) do
            answers[#answers + 1] = redis.call('ZREM', root .. ':cap:' .. asked[1], asked[2])
        end
    end
    return answers
    """,
    "allow-oom",
)

MEMBERS = Script(
    """
    local live = '(' .. string.format('%.17g', now(ARGV[2]))
    return redis.call('ZRANGEBYSCORE', KEYS[1] .. ':cap:' .. ARGV[1], live, '+inf')
    """,
    "no-writes",
)


class RedisLimits:
    """The Limits port. What is asked in the same turn of the event loop goes out together."""

    def __init__(self, nodes: Nodes, clock: Clock | None = None) -> None:
        """`clock` None: the server's."""
        self._nodes, self._clock = nodes, clock
        self._memory = math.ceil(1000 * (nodes.patience + 2 * nodes.address.timeout + 5))
        self._ask = Batch(nodes, ASK, lambda: (self._now(), secrets.token_hex(8), self._memory))
        self._leave = Batch(nodes, LEAVE, lambda: ())

    async def take(self, key: str, rate: float, burst: int) -> float:
        """ValueError for a rate that is not above 0 or a burst below 1: such a bucket never holds a token. More than
        a million a second is taken for a million."""
        if not rate > 0 or burst < 1:
            raise ValueError(f"no bucket refills {rate} a second up to {burst}")
        step = max(1, math.ceil(SECOND / rate))
        wait = await self._ask.ask(partition_of(key), "take", key, step, burst)
        return float(wait / SECOND)

    async def enter(self, key: str, member: str, ceiling: int, until: float) -> bool:
        given = await self._ask.ask(partition_of(key), "enter", key, member, ceiling, float(until))
        return bool(given)

    async def leave(self, key: str, member: str) -> None:
        await self._leave.ask(partition_of(key), key, member)

    async def members(self, key: str) -> frozenset[str]:
        found: list[Any] = await self._nodes.run(MEMBERS, partition_of(key), key, self._now())
        return frozenset(member.decode() for member in found)

    def _now(self) -> float | str:
        return "" if self._clock is None else self._clock.now()

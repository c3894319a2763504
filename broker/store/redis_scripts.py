"""What the Redis store does at the server, in Lua. Imports redis_nodes.

Keys of one partition, after its root (`{broker:3f}`):

    :a:<aggregate>   hash   v version, r record, o the last operation ids; `t:<timer>` → "<due> <token>";
                            `l:<length of kind>:<kind><id>` for each line that is this aggregate's
    :b:<aggregate>   string the body
    :gone:<aggregate> string the operation ids of one that was removed a short while ago
    :keys            set    all aggregates
    :ages            zset   aggregate → when its body was written
    :timers          zset   <length of aggregate>:<aggregate><timer> → when it may be claimed
    :told:<operation> string what a claim or a pruning of a short while ago returned
    :lines:<kind>    hash   id → [aggregate, owner, created, phase, name, site] in MessagePack
    :order:<kind>    zset   id → created; and `:own:<length of kind>:<kind><owner>` the same for one owner
    :counts          hash   [kind, site, phase] in MessagePack → how many
    :news            stream aggregates that were written, and by which client

Every script that changes something knows its operation id, and one that finds its id answers what it answered. Those
that are confirmed then write the ids once more: WAIT promises nothing but of what its own connection has written
(`Nodes.run`). Redis 7.0 waits for more than that, so no test can show it there.

Lua writes a number with 14 digits; times need 17. Lua compares texts by the server's locale; ids need their bytes.
"""

from __future__ import annotations

from broker.store.redis_nodes import Script

REMEMBERED = 8  # operation ids an aggregate keeps
MEMORY = 60  # seconds that what was removed or claimed is remembered: longer than anything is repeated
ARGUMENTS = 1000  # of one command; Lua can hand over a few thousand
NEWS = 1000  # entries of news that a partition keeps, about

COMMON = f"""
local function number(value) return string.format('%.17g', value) end

local function knows(ids, id) return ids and string.find(ids, id, 1, true) ~= nil end

local function with(ids, id) return string.sub((ids or '') .. ' ' .. id, -{REMEMBERED * 17}) end

local function timer_member(aggregate, key) return #aggregate .. ':' .. aggregate .. key end

local function split(text)
    local length, rest = string.match(text, '^(%d+):(.*)$')
    length = tonumber(length)
    return string.sub(rest, 1, length), string.sub(rest, length + 1)
end
"""

LINES = f"""
local function line_field(kind, id) return 'l:' .. #kind .. ':' .. kind .. id end

local function own_key(root, kind, owner) return root .. ':own:' .. #kind .. ':' .. kind .. owner end

local function count_field(kind, line) return cmsgpack.pack({{kind, line[6], line[4]}}) end

local function count(root, field, by)
    if by == 0 then return end
    if redis.call('HINCRBY', root .. ':counts', field, by) <= 0 then redis.call('HDEL', root .. ':counts', field) end
end

local function cut_line(root, aggregate, kind, id)
    if redis.call('HDEL', root .. ':a:' .. aggregate, line_field(kind, id)) == 0 then return end
    local lines = root .. ':lines:' .. kind
    local line = cmsgpack.unpack(redis.call('HGET', lines, id))
    count(root, count_field(kind, line), -1)
    redis.call('HDEL', lines, id)
    redis.call('ZREM', root .. ':order:' .. kind, id)
    redis.call('ZREM', own_key(root, kind, line[2]), id)
end

-- A command with many arguments costs far less than many commands. `batch` holds the arguments by command and key.
local function add(batch, command, key, one, two)
    local name = command .. key
    local held = batch[name]
    if not held then
        held = {{command, key}}
        batch[name] = held
    end
    held[#held + 1] = one
    held[#held + 1] = two
    if #held > {ARGUMENTS} then
        redis.call(unpack(held))
        batch[name] = nil
    end
end

local function put_line(root, batch, counts, old, aggregate, kind, id, packed)
    if old == packed then return end
    local line, before = cmsgpack.unpack(packed), old and cmsgpack.unpack(old) or {{}}
    local field, own = count_field(kind, line), own_key(root, kind, line[2])
    counts[field] = (counts[field] or 0) + 1
    if old then
        local left = count_field(kind, before)
        counts[left] = (counts[left] or 0) - 1
        if before[1] ~= aggregate then redis.call('HDEL', root .. ':a:' .. before[1], line_field(kind, id)) end
        if before[2] ~= line[2] then redis.call('ZREM', own_key(root, kind, before[2]), id) end
    end
    add(batch, 'HSET', root .. ':lines:' .. kind, id, packed)
    if before[1] ~= aggregate then add(batch, 'HSET', root .. ':a:' .. aggregate, line_field(kind, id), '') end
    if before[3] ~= line[3] then add(batch, 'ZADD', root .. ':order:' .. kind, number(line[3]), id) end
    if before[3] ~= line[3] or before[2] ~= line[2] then add(batch, 'ZADD', own, number(line[3]), id) end
end

-- `many` lines from ARGV[at] on, each as kind, id and line. Each id of a kind at most once.
local function put_lines(root, aggregate, at, many)
    local batch, counts = {{}}, {{}}
    for from = 0, many - 1, {ARGUMENTS} do
        local to = math.min(from + {ARGUMENTS}, many) - 1
        local ids, old, kinds = {{}}, {{}}, {{}}
        for place = from, to do
            local kind, id = ARGV[at + 3 * place], ARGV[at + 3 * place + 1]
            if not ids[kind] then
                ids[kind] = {{}}
                kinds[#kinds + 1] = kind
            end
            table.insert(ids[kind], id)
        end
        for _, kind in ipairs(kinds) do
            old[kind] = {{}}
            local found = redis.call('HMGET', root .. ':lines:' .. kind, unpack(ids[kind]))
            for place, id in ipairs(ids[kind]) do old[kind][id] = found[place] end
        end
        for place = from, to do
            local kind, id, packed = unpack(ARGV, at + 3 * place, at + 3 * place + 2)
            put_line(root, batch, counts, old[kind][id], aggregate, kind, id, packed)
        end
    end
    for _, held in pairs(batch) do redis.call(unpack(held)) end
    for field, by in pairs(counts) do count(root, field, by) end
end
"""

TELL = f"""
local function tell(root, aggregate, origin)
    redis.call('XADD', root .. ':news', 'MAXLEN', '~', {NEWS}, '0-*', 'a', aggregate, 'w', origin)
end
"""

# ARGV: now, operation, origin, aggregate, version, record, then the number of timers with key and due ('': none) of
# each, the number of cuts with kind and id of each, the number of lines with kind, id and line of each, and the body
# if there is one.
WRITE = Script(
    COMMON
    + LINES
    + TELL
    + """
local root, given, operation, origin, aggregate, version = KEYS[1], unpack(ARGV, 1, 5)
local a = root .. ':a:' .. aggregate
local present, ids = unpack(redis.call('HMGET', a, 'v', 'o'))
if knows(ids, operation) then
    redis.call('HSET', a, 'o', ids)
    return 1
end
if (present or '0') ~= version then return 0 end
if not present then
    if knows(redis.call('GET', root .. ':gone:' .. aggregate), operation) then return 0 end
    redis.call('SADD', root .. ':keys', aggregate)
end
redis.call('HSET', a, 'v', string.format('%d', tonumber(version) + 1), 'r', ARGV[6], 'o', with(ids, operation))

local at = 7
for _ = 1, ARGV[at] do
    local key, due = ARGV[at + 1], ARGV[at + 2]
    if due == '' then
        redis.call('HDEL', a, 't:' .. key)
        redis.call('ZREM', root .. ':timers', timer_member(aggregate, key))
    else
        redis.call('HSET', a, 't:' .. key, due .. ' ')
        redis.call('ZADD', root .. ':timers', due, timer_member(aggregate, key))
    end
    at = at + 2
end
at = at + 1
for _ = 1, ARGV[at] do
    cut_line(root, aggregate, ARGV[at + 1], ARGV[at + 2])
    at = at + 2
end
at = at + 1
put_lines(root, aggregate, at + 1, tonumber(ARGV[at]))
at = at + 3 * tonumber(ARGV[at])
local body = ARGV[at + 1]
if body then
    redis.call('SET', root .. ':b:' .. aggregate, body)
    redis.call('ZADD', root .. ':ages', number(now(given)), aggregate)
end
tell(root, aggregate, origin)
return 1
"""
)

# ARGV: operation, origin, aggregate, version.
REMOVE = Script(
    COMMON
    + LINES
    + TELL
    + f"""
local root, operation, origin, aggregate, version = KEYS[1], unpack(ARGV, 1, 4)
local a, gone = root .. ':a:' .. aggregate, root .. ':gone:' .. aggregate
local present, ids = unpack(redis.call('HMGET', a, 'v', 'o'))
if not present then
    ids = redis.call('GET', gone)
    if not knows(ids, operation) then return 0 end
    redis.call('SET', gone, ids, 'EX', {MEMORY})
    return 1
end
if present ~= version then return 0 end
for _, field in ipairs(redis.call('HKEYS', a)) do
    local what, rest = string.sub(field, 1, 2), string.sub(field, 3)
    if what == 'l:' then
        cut_line(root, aggregate, split(rest))
    elseif what == 't:' then
        redis.call('ZREM', root .. ':timers', timer_member(aggregate, rest))
    end
end
redis.call('UNLINK', a, root .. ':b:' .. aggregate)
redis.call('ZREM', root .. ':ages', aggregate)
redis.call('SREM', root .. ':keys', aggregate)
redis.call('SET', gone, with(ids, operation), 'EX', {MEMORY})
tell(root, aggregate, origin)
return 1
""",
    "allow-oom",
)

# What comes of a lease. ARGV: now, operation, aggregate, timer, token, what, and its seconds or due time.
SETTLE = Script(
    COMMON
    + """
local root, given, operation, aggregate, key, token, what, value = KEYS[1], unpack(ARGV, 1, 7)
local a, timers, member = root .. ':a:' .. aggregate, root .. ':timers', timer_member(aggregate, key)
local timer, ids = unpack(redis.call('HMGET', a, 't:' .. key, 'o'))
if knows(ids, operation) then return 1 end
if not timer then return 0 end
local due, held = string.match(timer, '^(%S+) (.*)$')
if held ~= token then return 0 end
if what == 'done' then
    redis.call('HDEL', a, 't:' .. key)
    redis.call('ZREM', timers, member)
elseif what == 'postpone' then
    redis.call('HSET', a, 't:' .. key, value .. ' ')
    redis.call('ZADD', timers, value, member)
else
    redis.call('ZADD', timers, number(now(given) + tonumber(value)), member)
end
redis.call('HSET', a, 'o', with(ids, operation))
return 1
""",
    "allow-oom",
)

# When timers became ready that are, the earliest first: place of the partition in KEYS, time, and so on. ARGV: now,
# how many.
DUE = Script(
    """
local until_, limit = string.format('%.17g', now(ARGV[1])), tonumber(ARGV[2])
local found = {}
for place, root in ipairs(KEYS) do
    local rows = redis.call('ZRANGEBYSCORE', root .. ':timers', '-inf', until_, 'WITHSCORES', 'LIMIT', 0, limit)
    for at = 2, #rows, 2 do found[#found + 1] = {place, rows[at], tonumber(rows[at])} end
end
table.sort(found, function(one, other) return one[3] < other[3] end)
local flat = {}
for at = 1, math.min(#found, limit) do
    flat[#flat + 1] = found[at][1]
    flat[#flat + 1] = found[at][2]
end
return flat
""",
    "no-writes",
)

# ARGV: now, seconds, token, and how many of each partition. Returns aggregate, timer, due, and so on.
CLAIM = Script(
    COMMON
    + f"""
local memory = KEYS[1] .. ':told:' .. ARGV[3]
local told = redis.call('GET', memory)
if told then return cmsgpack.unpack(told) end
local present = now(ARGV[1])
local until_, present = number(present + tonumber(ARGV[2])), number(present)
local leases = {{}}
for place, root in ipairs(KEYS) do
    local timers = root .. ':timers'
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', timers, '-inf', present, 'LIMIT', 0, ARGV[3 + place])) do
        local aggregate, key = split(member)
        local a = root .. ':a:' .. aggregate
        local due = string.match(redis.call('HGET', a, 't:' .. key), '^%S+')
        redis.call('HSET', a, 't:' .. key, due .. ' ' .. ARGV[3])
        redis.call('ZADD', timers, until_, member)
        leases[#leases + 1] = aggregate
        leases[#leases + 1] = key
        leases[#leases + 1] = due
    end
end
if #leases > 0 then redis.call('SET', memory, cmsgpack.pack(leases), 'EX', {MEMORY}) end
return leases
""",
    "allow-oom",
)

NEXT_DUE = Script(
    """
local first, told
for _, root in ipairs(KEYS) do
    local row = redis.call('ZRANGE', root .. ':timers', 0, 0, 'WITHSCORES')
    local ready = tonumber(row[2])
    if ready and (not first or ready < first) then first, told = ready, row[2] end
end
return told
""",
    "no-writes",
)

# Lines of one kind, newest first, merged over the partitions. ARGV: the query in MessagePack, how many, how many may
# be looked at. Returns id, line, and so on; then (created, id) of the last that was looked at, or nothing: all were.
PAGE = Script(
    COMMON
    + """
local query, limit, budget = cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local top = query.created and number(query.created) or '+inf'
local bottom = query.since and number(query.since) or '-inf'
local chunk = math.max(8, math.ceil(2 * limit / #KEYS))
local phases
if query.phases then
    phases = {}
    for _, phase in ipairs(query.phases) do phases[phase] = true end
end

local function bytes_before(one, other)
    for at = 1, math.min(#one, #other) do
        local x, y = string.byte(one, at), string.byte(other, at)
        if x ~= y then return x < y end
    end
    return #one < #other
end

local function newer(one, other)
    if one.created ~= other.created then return one.created > other.created end
    return bytes_before(other.id, one.id)
end

local function step(source)
    source.at = source.at + 2
    if source.at > #source.rows then
        if source.last then return false end
        source.rows = redis.call('ZREVRANGEBYSCORE', source.key, top, bottom, 'WITHSCORES', 'LIMIT', source.seen, chunk)
        source.seen, source.at = source.seen + chunk, 1
        source.last = #source.rows < 2 * chunk
        if #source.rows == 0 then return false end
    end
    source.id, source.created = source.rows[source.at], tonumber(source.rows[source.at + 1])
    return true
end

local function begin(root)
    local key = root .. ':order:' .. query.kind
    if query.owner then key = root .. ':own:' .. #query.kind .. ':' .. query.kind .. query.owner end
    local source = {key = key, lines = root .. ':lines:' .. query.kind, rows = {}, at = 1, seen = 0}
    repeat
        if not step(source) then return nil end
    until not query.created or source.created < query.created or bytes_before(source.id, query.id)
    return source
end

local heap = {}

local function sink(place)
    while true do
        local child = 2 * place
        if child > #heap then return end
        if child < #heap and newer(heap[child + 1], heap[child]) then child = child + 1 end
        if not newer(heap[child], heap[place]) then return end
        heap[place], heap[child] = heap[child], heap[place]
        place = child
    end
end

for _, root in ipairs(KEYS) do
    local source = begin(root)
    if source then heap[#heap + 1] = source end
end
for place = math.floor(#heap / 2), 1, -1 do sink(place) end

local function wanted(packed)
    if not (phases or query.site or query.name) then return true end
    local line = cmsgpack.unpack(packed)
    return (not phases or phases[line[4]]) and (not query.site or query.site == line[6])
        and (not query.name or query.name == line[5])
end

local found, last = {}, nil
while #heap > 0 and #found < 2 * limit and budget > 0 do
    local source = heap[1]
    local packed = redis.call('HGET', source.lines, source.id)
    if wanted(packed) then
        found[#found + 1] = source.id
        found[#found + 1] = packed
    end
    last = {number(source.created), source.id}
    budget = budget - 1
    if not step(source) then
        heap[1] = heap[#heap]
        heap[#heap] = nil
    end
    sink(1)
end
return {found, #heap > 0 and last or {}}
""",
    "no-writes",
)

COUNTS = Script(
    """
local totals = {}
for _, root in ipairs(KEYS) do
    local rows = redis.call('HGETALL', root .. ':counts')
    for at = 1, #rows, 2 do totals[rows[at]] = (totals[rows[at]] or 0) + tonumber(rows[at + 1]) end
end
local flat = {}
for field, total in pairs(totals) do
    flat[#flat + 1] = field
    flat[#flat + 1] = total
end
return flat
""",
    "no-writes",
)

# ARGV: now, aggregate. Returns version, record, then key, due, whether leased of the timers, kind, id, line of the
# lines.
WHOLE = Script(
    COMMON
    + """
local root, present, aggregate = KEYS[1], now(ARGV[1]), ARGV[2]
local version, record, timers, lines = '0', '', {}, {}
local rows = redis.call('HGETALL', root .. ':a:' .. aggregate)
for at = 1, #rows, 2 do
    local what, rest, value = string.sub(rows[at], 1, 2), string.sub(rows[at], 3), rows[at + 1]
    if what == 'v' then version = value
    elseif what == 'r' then record = value
    elseif what == 't:' then
        local due, token = string.match(value, '^(%S+) (.*)$')
        local ready = tonumber(redis.call('ZSCORE', root .. ':timers', timer_member(aggregate, rest)) or 0)
        for _, part in ipairs({rest, due, (token ~= '' and ready > present) and 1 or 0}) do
            timers[#timers + 1] = part
        end
    elseif what == 'l:' then
        local kind, id = split(rest)
        local line = redis.call('HGET', root .. ':lines:' .. kind, id)
        if line then
            for _, part in ipairs({kind, id, line}) do lines[#lines + 1] = part end
        end
    end
end
if #rows == 0 then return false end
return {version, record, timers, lines}
""",
    "no-writes",
)

# ARGV: operation, before, how many. Returns how many.
PRUNE = Script(
    f"""
local memory, left, pruned = KEYS[1] .. ':told:' .. ARGV[1], tonumber(ARGV[3]), 0
local told = redis.call('GET', memory)
if told then return tonumber(told) end
for _, root in ipairs(KEYS) do
    if left == pruned then break end
    local old = redis.call('ZRANGEBYSCORE', root .. ':ages', '-inf', '(' .. ARGV[2], 'LIMIT', 0, left - pruned)
    for _, aggregate in ipairs(old) do
        redis.call('UNLINK', root .. ':b:' .. aggregate)
        redis.call('ZREM', root .. ':ages', aggregate)
    end
    pruned = pruned + #old
end
if pruned > 0 then redis.call('SET', memory, pruned, 'EX', {MEMORY}) end
return pruned
""",
    "allow-oom",
)

# ARGV: how many at most, then after which number for each partition ('': the last one is all that is asked for).
# Returns for each partition its last number, whether news were missed, and aggregate, writer, and so on.
NEWS_SINCE = Script(
    """
local told = {}
local function sequence(id) return tonumber(string.match(id, '%-(%d+)$')) end
for place, root in ipairs(KEYS) do
    local news, after = root .. ':news', tonumber(ARGV[1 + place])
    local newest = redis.call('XREVRANGE', news, '+', '-', 'COUNT', 1)
    local last, missed, entries = newest[1] and sequence(newest[1][1]) or 0, 0, {}
    if after and last < after then
        missed = 1
    elseif after and last > after then
        local rows = redis.call('XRANGE', news, string.format('0-%d', after + 1), '+', 'COUNT', ARGV[1])
        if sequence(rows[1][1]) ~= after + 1 then missed = 1 end
        last = sequence(rows[#rows][1])
        for _, row in ipairs(rows) do
            entries[#entries + 1] = row[2][2]
            entries[#entries + 1] = row[2][4]
        end
    end
    told[place] = {last, missed, entries}
end
return told
""",
    "no-writes",
)

# ARGV: now. The cheapest write there is.
BEAT = Script("redis.call('SET', KEYS[1] .. ':pulse', ARGV[1]) return 1")

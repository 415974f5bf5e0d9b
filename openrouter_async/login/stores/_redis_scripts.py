"""The Lua scripts of `RedisStore`."""

from __future__ import annotations

from typing import Final

# Each script is one atomic step on keys that share a hash tag, and so a node of a cluster. The scripts read the clock
# of the server, so the clocks of workers need not agree. Every name is in one of a few groups, each with a hash tag and
# an index of its own, so that a script can also evict the surplus of its group. The names of evicted keys are not
# declared in KEYS: they are known only within the script, and are in the slot of its keys.

# Adds ARGV[1] to the index KEYS[1] for ARGV[2] milliseconds, and calls `evict` with the names beyond ARGV[3], at most
# ten in one call: after the bound was lowered, evicting all at once would block the server.
_INDEX: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local surplus = redis.call('ZCARD', KEYS[1]) - ARGV[3]
local evicted = 0
if surplus > 0 then
    local oldest = redis.call('ZPOPMIN', KEYS[1], math.min(surplus, 10))
    for i = 1, #oldest, 2 do evicted = evicted + evict(oldest[i]) end
end
return evicted
"""

# KEYS: the index, the login. ARGV: name of the login, lifetime in milliseconds, bound of the index, binding, login.
PUT: Final = f"""
local function evict(name)
    if redis.call('HGET', name, 'status') ~= 'pending' then return 0 end
    return redis.call('DEL', name)
end
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'status', 'pending', 'binding', ARGV[4], 'login', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
{_INDEX}
"""

# KEYS: the index, the value. ARGV: name of the value, lifetime in milliseconds, bound of the index, value.
SET: Final = f"""
local function evict(name) return redis.call('DEL', name) end
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[2])
{_INDEX}
"""

# The KEYS of the scripts below are a login and its result.

# ARGV: binding, token, lease in milliseconds, least remaining lifetime in milliseconds.
CLAIM: Final = """
local login = redis.call('HMGET', KEYS[1], 'status', 'binding', 'login', 'token', 'lease_ends_at', 'lost')
local status, token, lost = login[1], login[4], login[6] or '0'
if not status then return {'unknown'} end
if login[2] ~= ARGV[1] then return {'binding_mismatch'} end
if status == 'consumed' then
    local result = redis.call('GET', KEYS[2])
    if result then return {'finished', result} end
    return {'consumed'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if status == 'claimed' and token ~= ARGV[2] then
    if tonumber(login[5]) > now then return {'busy'} end
    lost = '1'
end
local ends_at = string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], 'status', 'claimed', 'token', ARGV[2], 'lease_ends_at', ends_at, 'lost', lost)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return {'claimed', login[3], lost}
"""

# ARGV: token.
RELEASE: Final = """
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'status', 'pending')
    redis.call('HDEL', KEYS[1], 'token', 'lease_ends_at')
end
"""

# ARGV: token, binding, whether there is a result, the result to keep or an empty string, its lifetime in milliseconds,
# least remaining lifetime of the login in milliseconds.
FINISH: Final = """
if ARGV[3] == '0' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return end
redis.call('HSET', KEYS[1], 'status', 'consumed', 'binding', ARGV[2])
redis.call('HDEL', KEYS[1], 'login', 'token', 'lease_ends_at', 'lost')
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5]) end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
"""

"""What the fleet's throttle does inside Redis, each in one indivisible step by Redis' own clock.

Keys: the throttle's state (a hash), its permits (a sorted set: permit -> until when), the index of
all throttles. First arguments of all but ``STATE``: the permit lease in seconds, what is known of a
provider at first as text, its limit, the throttle's name.
"""

from __future__ import annotations

_PRELUDE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local lease = tonumber(ARGV[1])
local function text(number) return string.format('%.6f', number) end
local function open()
  if redis.call('EXISTS', KEYS[1]) == 0 then
    -- Nobody knows who holds what: all who do are to say so before anybody gets more.
    redis.call('HSET', KEYS[1], 'aimd', ARGV[2], 'limit', ARGV[3], 'open_at', text(now + lease),
      'next_start', '0', 'touched_at', text(now), 'restricted', '0', 'cap', '0', 'per_s', '0')
    redis.call('SADD', KEYS[3], ARGV[4])
  end
  local silence = now - tonumber(redis.call('HGET', KEYS[1], 'touched_at'))
  if silence > lease and redis.call('ZCOUNT', KEYS[2], '-inf', now) > 0 then
    -- No holder could reach us for a whole lease: theirs ran out, but not their requests.
    redis.call('HSET', KEYS[1], 'open_at', text(now + lease))
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('HSET', KEYS[1], 'touched_at', text(now))
end
"""

ACQUIRE = (
    _PRELUDE
    + """
open()
local cap, per_s = tonumber(ARGV[6]), tonumber(ARGV[7])
redis.call('HSET', KEYS[1], 'cap', ARGV[6], 'per_s', ARGV[7])
local state = redis.call('HMGET', KEYS[1], 'limit', 'open_at', 'next_start', 'restricted')
if state[4] == '1' then cap = cap * tonumber(ARGV[8]) end
local closed_s = tonumber(state[2]) - now
if closed_s > 0 then return {'0', text(now), text(closed_s)} end
local allowed = math.max(1, math.floor(math.min(tonumber(state[1]), cap)))
if redis.call('ZCARD', KEYS[2]) >= allowed then return {'0', text(now), '0'} end
local start = now
if per_s > 0 then
  start = math.max(now, tonumber(state[3]))
  if start - now > 1 then return {'0', text(now), text(start - now - 0.5)} end
  redis.call('HSET', KEYS[1], 'next_start', text(start + 1 / per_s))
end
redis.call('ZADD', KEYS[2], text(start + lease), ARGV[5])
return {'1', text(now), text(start - now)}
"""
)
"""Permit, cap, starts a second (0: uncounted), share of the cap while restricted
-> granted, now, s to wait (for its start, or to ask again)."""

RELEASE = (
    _PRELUDE
    + """
local held = redis.call('ZCARD', KEYS[2])
if ARGV[5] ~= '' and redis.call('ZREM', KEYS[2], ARGV[5]) == 0 then held = held + 1 end
return {text(now), redis.call('HGET', KEYS[1], 'aimd') or '', tostring(held)}
"""
)
"""Permit ('': none) -> now, what is known as text ('': nothing), permits held just before."""

CHANGE = """
local known = redis.call('HGET', KEYS[1], 'aimd')
if known == ARGV[5] then
  redis.call('HSET', KEYS[1], 'aimd', ARGV[6], 'limit', ARGV[7])
  return {'1', ARGV[6]}
end
return {'0', known or ''}
"""
"""What was known, what is known instead, its limit -> whether it was changed, what is known now."""

RENEW = (
    _PRELUDE
    + """
open()
for i = 5, #ARGV do redis.call('ZADD', KEYS[2], text(now + lease), ARGV[i]) end
return {text(now)}
"""
)
"""Permits that are held -> now."""

RESTRICT = (
    _PRELUDE
    + """
open()
redis.call('HSET', KEYS[1], 'restricted', ARGV[5])
return {text(now)}
"""
)
"""1 or 0 -> now."""

STATE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local state = redis.call('HMGET', KEYS[1], 'aimd', 'cap', 'per_s', 'restricted')
local held = redis.call('ZCOUNT', KEYS[2], string.format('(%.6f', now), '+inf')
return {state[1] or '', state[2] or '', state[3] or '', state[4] or '', tostring(held)}
"""
"""-> what is known as text, cap, starts a second, restricted, permits held; '' where nothing is known."""

"""Lua scripts that Redis executes atomically."""

from __future__ import annotations

PAGE = 1000
"""Entries per call: Lua's ``unpack`` takes 8,000 at most."""

SCAN = """
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
if #keys == 0 then return {keys, keys} end
return {keys, redis.call('HMGET', KEYS[1], unpack(keys))}
"""

SCAN_ALL = """
local found = {}
for at = 2, #ARGV, 2 do
  local keys = redis.call(
    'ZRANGEBYLEX', KEYS[2], ARGV[at], ARGV[at + 1], 'LIMIT', 0, ARGV[1])
  found[#found + 1] = keys
  found[#found + 1] = #keys > 0 and redis.call('HMGET', KEYS[1], unpack(keys)) or keys
end
return found
"""

# It sets before it deletes: a full Redis can only refuse the first command.
CHANGE = """
local values, order, at = KEYS[1], KEYS[2], 3
local function following() at = at + 1; return ARGV[at] end
for _ = 1, tonumber(ARGV[1]) do
  local found = redis.call('HGET', values, following())
  if found ~= following() then return 0 end
end
for _ = 1, tonumber(ARGV[2]) do
  if redis.call('HEXISTS', values, following()) == 1 then return 0 end
end
for _ = 1, tonumber(ARGV[3]) do
  local key = following()
  redis.call('HSET', values, key, following())
  redis.call('ZADD', order, 0, key)
end
while at < #ARGV do
  local key = following()
  redis.call('HDEL', values, key)
  redis.call('ZREM', order, key)
end
return 1
"""

-- ARGV: clock offset, age of a dead letter at its end, how many to keep in a queue, limit, queues.
-- Remove the oldest dead letters that are too old or too many, `limit` of each queue at most. Reply: 1 if there may be more.
local keep, limit = tonumber(ARGV[3]), tonumber(ARGV[4])

local function is_over(state)
  local died = tonumber(string.match(state or '', '%z(%d+)$') or nil)
  return died and died <= now - ARGV[2]
end

local function prune(queue)
  local dead, members, ids = base .. 'dead:' .. queue, {}, {}
  local over = redis.call('ZCARD', dead) - keep
  local oldest = redis.call('ZRANGE', dead, 0, 0)[1]
  if not oldest or (over <= 0 and not is_over(redis.call('HGET', STATES, sub(oldest, 17)))) then
    return 0
  end
  local found = redis.call('ZRANGE', dead, 0, limit - 1)
  for i = 1, #found do
    ids[i] = sub(found[i], 17)
  end
  local states = fetch(STATES, ids)
  ids = {}
  for i = 1, #found do
    if i <= over or is_over(states[i]) then
      members[#members + 1], ids[#ids + 1] = found[i], sub(found[i], 17)
    end
  end
  call_in_chunks('ZREM', dead, members)
  call_in_chunks('HDEL', MESSAGES, ids)
  call_in_chunks('HDEL', STATES, ids)
  call_in_chunks('HDEL', ERRORS, ids)
  delete_if_empty(queue)
  return #ids
end

-- Remove keys that nobody holds any more, of some that are drawn by chance; say whether many of them were.
local function prune_keys()
  local keys, stale = redis.call('HRANDFIELD', UNIQUE, 100), {}
  for i, entry in ipairs(fetch(UNIQUE, keys)) do
    if not still_holds(entry) then
      stale[#stale + 1] = keys[i]
    end
  end
  call_in_chunks('HDEL', UNIQUE, stale)
  return #stale > 25
end

local more = prune_keys() and 1 or 0
for i = 5, #ARGV do
  if prune(ARGV[i]) >= limit then
    more = 1
  end
end
return more

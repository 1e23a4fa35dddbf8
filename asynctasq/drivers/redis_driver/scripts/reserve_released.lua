-- Lease again messages that are released and whose token is still the latest, visible or not.
-- ARGV: clock offset, lease, holder, count, ids, tokens. Reply: the end of the leases, then id, state and stored message of each.
local count, until_at, holder = tonumber(ARGV[4]), integer(now + ARGV[2]), ARGV[3] .. NO_PROGRESS
local reply = { until_at }
for i = 5, 4 + count do
  local id = ARGV[i]
  local value, state = redis.call('HGET', MESSAGES, id), redis.call('HGET', STATES, id)
  local arrival, queue = state and sub(state, 1, 16), state and sub(state, 67)
  if state and byte(state, 33) == byte('F') and sub(state, 1, 32) == ARGV[i + count]
    and is_readable(id, arrival, queue, value, state) then
    local leased = leased_state(state, false)
    redis.call('HSET', STATES, id, leased)
    redis.call('ZADD', base .. 'leased:' .. queue, until_at, arrival .. PAD .. id)
    redis.call('HSET', HOLDERS, id, holder)
    redis.call('ZREM', base .. 'due:' .. queue, arrival .. id)
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3] = id, leased, value
  end
end
return reply

-- ARGV: clock offset, 'waiting' (scheduled, ready, expired lease) or 'dead', ids. Reply: the ids removed.
local removed, touched = {}, {}
local wants_dead = ARGV[2] == 'dead'

-- Return the sorted set that holds the message and its member there, if it may be removed.
local function sorted_set_of(state, queue, arrival, id)
  local mode, key, member = sub(state, 33, 33), base .. 'due:' .. queue, arrival .. id
  if mode == 'D' then
    return wants_dead and base .. 'dead:' .. queue, member
  elseif mode == 'L' then
    key, member = base .. 'leased:' .. queue, arrival .. PAD .. id
    local ends = tonumber(redis.call('ZSCORE', key, member) or nil)
    return not wants_dead and (not ends or ends <= now) and key, member
  end
  return not wants_dead and key, member
end

for i = 3, #ARGV do
  local id = ARGV[i]
  local value = redis.call('HGET', MESSAGES, id)
  if value then
    local queue = sub(value, 33, (find(value, '%z', 33) or 33) - 1)
    local key, member = sorted_set_of(redis.call('HGET', STATES, id) or '', queue, sub(value, 1, 16), id)
    if key then
      redis.call('ZREM', key, member)
      redis.call('HDEL', MESSAGES, id)
      redis.call('HDEL', STATES, id)
      redis.call('HDEL', ERRORS, id)
      redis.call('HDEL', HOLDERS, id)
      removed[#removed + 1] = id
      touched[queue] = true
    end
  end
end
for queue in pairs(touched) do
  delete_if_empty(queue)
end
return removed

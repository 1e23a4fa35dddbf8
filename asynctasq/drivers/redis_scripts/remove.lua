-- ARGV: clock offset, 'waiting' (scheduled, ready, expired lease) or 'dead', ids. Reply: the ids removed.
local removed, touched = {}, {}
local wants_dead = ARGV[2] == 'dead'

-- The sorted set a message stands in, if it may be removed.
local function place_of(state, queue, member)
  local mode = sub(state, 33, 33)
  if wants_dead then
    return mode == 'D' and 'dead:'
  elseif mode == 'L' then
    return tonumber(redis.call('ZSCORE', base .. 'leased:' .. queue, member)) <= now and 'leased:'
  end
  return mode ~= 'D' and 'due:'
end

for i = 3, #ARGV do
  local id = ARGV[i]
  local value = redis.call('HGET', MESSAGES, id)
  if value then
    local queue = sub(value, 33, string.find(value, '\0', 33, true) - 1)
    local member = sub(value, 1, 16) .. id
    local place = place_of(redis.call('HGET', STATES, id) or '', queue, member)
    if place then
      redis.call('ZREM', base .. place .. queue, member)
      redis.call('HDEL', MESSAGES, id)
      redis.call('HDEL', STATES, id)
      redis.call('HDEL', ERRORS, id)
      removed[#removed + 1] = id
      touched[queue] = true
    end
  end
end
for queue in pairs(touched) do
  forget_if_empty(queue)
end
return removed

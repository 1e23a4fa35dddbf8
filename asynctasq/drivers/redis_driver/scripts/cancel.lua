-- ARGV: clock offset, how long to keep marks, how a mark begins, ids.
-- Remove messages that are no dead letters, whatever their state, and keep a mark of each in place of its result.
-- Reply: id and token of each that was removed; the token is '' if it was under no lease.
local removed, touched, holders = {}, {}, {}
local keep_for = tonumber(ARGV[2])

local function keep_mark(id, token)
  local key, mark = base .. 'result:' .. id, padded(now + keep_for) .. ARGV[3] .. token
  if tonumber(ARGV[1]) == 0 then
    redis.call('SET', key, mark, 'PX', integer(math.ceil(keep_for / 1000)))
  else
    redis.call('SET', key, mark)
  end
end

local function cancel(id, value)
  local state, arrival = redis.call('HGET', STATES, id) or '', sub(value, 1, 16)
  local queue = sub(value, 33, (find(value, '%z', 33) or 33) - 1)
  local key, member, token = base .. 'due:' .. queue, arrival .. id, ''
  if sub(state, 33, 33) == 'D' then
    return
  elseif byte(state, 33) == LEASED then
    key, member, token = base .. 'leased:' .. queue, arrival .. PAD .. id, sub(state, 1, 32)
    holders[string.match(redis.call('HGET', HOLDERS, id) or '', '^%Z*')] = true
  end
  keep_mark(id, token)
  if moves_to(queue) then
    forget_ranks(queue, { id }, { member })
  end
  redis.call('ZREM', key, member)
  for _, hash in ipairs({ MESSAGES, STATES, ERRORS, HOLDERS }) do
    redis.call('HDEL', hash, id)
  end
  removed[#removed + 1], removed[#removed + 2] = id, token
  touched[queue] = true
end

for i = 4, #ARGV do
  local value = redis.call('HGET', MESSAGES, ARGV[i])
  if value then
    cancel(ARGV[i], value)
  end
end
for queue in pairs(touched) do
  delete_if_empty(queue)
end
for i = 1, #removed, 2 do
  tell(removed[i])
end
for holder in pairs(holders) do
  tell('\n' .. holder)
end
return removed

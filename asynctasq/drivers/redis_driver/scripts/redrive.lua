-- ARGV: clock offset, queue, limit. Reply: how many dead letters went back to ready.
local queue, limit, moved = ARGV[2], tonumber(ARGV[3]), 0
local due, dead = base .. 'due:' .. queue, base .. 'dead:' .. queue
while moved < limit do
  local members = redis.call('ZRANGE', dead, 0, min(1000, limit - moved) - 1)
  if #members == 0 then
    break
  end
  local ids, scores, written = {}, {}, {}
  for i = 1, #members do
    ids[i] = sub(members[i], 17)
  end
  local states = fetch(STATES, ids)
  for i = 1, #members do
    -- A member that leads to no message is only removed.
    local value = redis.call('HGET', MESSAGES, ids[i])
    if value then
      if find(value, VALUE) then
        redis.call('HSET', MESSAGES, ids[i], sub(value, 1, 16) .. padded(now) .. sub(value, 33))
      end
      local state, at = states[i] or '', #written
      local token = find(state, VALUE) and sub(state, 1, 32) or sub(members[i], 1, 16) .. padded(now)
      written[at + 1], written[at + 2] = ids[i], token .. 'F0' .. NO_COUNTS .. queue
      scores[at + 1], scores[at + 2] = integer(now), members[i]
    end
  end
  call_in_chunks('HSET', STATES, written)
  call_in_chunks('ZADD', due, scores)
  redis.call('ZREMRANGEBYRANK', dead, 0, #members - 1)
  call_in_chunks('HDEL', ERRORS, ids)
  moved = moved + #written / 2
end
if moved > 0 then
  wake(queue)
end
delete_if_empty(queue)
return moved

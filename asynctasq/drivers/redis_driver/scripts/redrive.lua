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
    scores[2 * i - 1], scores[2 * i] = integer(now), members[i]
  end
  local states = fetch(STATES, ids)
  for i = 1, #members do
    written[2 * i - 1] = ids[i]
    written[2 * i] = sub(states[i], 1, 32) .. 'F0' .. NO_COUNTS .. queue
  end
  call_in_chunks('HSET', STATES, written)
  call_in_chunks('ZADD', due, scores)
  redis.call('ZREMRANGEBYRANK', dead, 0, #members - 1)
  call_in_chunks('HDEL', ERRORS, ids)
  moved = moved + #members
end
if moved > 0 then
  wake(queue)
end
return moved

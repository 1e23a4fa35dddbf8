-- ARGV: clock offset, queue, limit. Reply: how many dead letters went back to ready.
-- The oldest death of all lines first.
local limit, moved, touched = tonumber(ARGV[3]), 0, {}

-- Return the line with the oldest death, nil if there is none, and the first death of the other lines.
local function oldest_dead()
  local oldest, first, second = nil, math.huge, math.huge
  for _, line in ipairs(lines_of(ARGV[2])) do
    local died = first_score(base .. 'dead:' .. line) or math.huge
    if died < first then
      oldest, first, second = line, died, first
    else
      second = min(second, died)
    end
  end
  return oldest, second == math.huge and '+inf' or integer(second)
end

while moved < limit do
  local line, before = oldest_dead()
  if not line then
    break
  end
  local due, dead = base .. 'due:' .. line, base .. 'dead:' .. line
  local members = redis.call('ZRANGEBYSCORE', dead, '-inf', before, 'LIMIT', 0, min(1000, limit - moved))
  touched[line] = true
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
      written[at + 1], written[at + 2] = ids[i], token .. 'F0' .. NO_COUNTS .. line
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
  wake(ARGV[2])
end
for line in pairs(touched) do
  delete_if_empty(line)
end
return moved

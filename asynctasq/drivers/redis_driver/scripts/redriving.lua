-- Make dead letters ready again.

-- Those of a line, by their members in its set of dead letters; return the ids. A member that leads to no message is only
-- removed.
local function redrive_members(line, members)
  local due, dead = base .. 'due:' .. line, base .. 'dead:' .. line
  local ids, scores, written, redriven = {}, {}, {}, {}
  for i = 1, #members do
    ids[i] = sub(members[i], 17)
  end
  local states = fetch(STATES, ids)
  for i = 1, #members do
    local value = redis.call('HGET', MESSAGES, ids[i])
    if value then
      if find(value, VALUE) then
        redis.call('HSET', MESSAGES, ids[i], sub(value, 1, 16) .. padded(now) .. sub(value, 33))
      end
      local state, at = states[i] or '', #written
      local token = find(state, VALUE) and sub(state, 1, 32) or sub(members[i], 1, 16) .. padded(now)
      written[at + 1], written[at + 2] = ids[i], token .. 'F0' .. NO_COUNTS .. line
      scores[at + 1], scores[at + 2] = integer(now), members[i]
      redriven[#redriven + 1] = ids[i]
    end
  end
  call_in_chunks('HSET', STATES, written)
  call_in_chunks('ZADD', due, scores)
  call_in_chunks('ZREM', dead, members)
  call_in_chunks('HDEL', ERRORS, ids)
  return redriven
end

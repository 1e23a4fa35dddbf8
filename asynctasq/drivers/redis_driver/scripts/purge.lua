-- ARGV: clock offset, queue, limit, the last arrival that counts or ''. Reply: how many were removed, the last arrival.
-- Remove at most `limit` scheduled and ready messages, so that a long queue does not block the server; what arrived
-- after the first call stays.
local queue, limit = ARGV[2], tonumber(ARGV[3])
local last = ARGV[4] ~= '' and tonumber(ARGV[4]) or tonumber(redis.call('GET', KEYS[1]) or '0')

local function remove(key, members, ids)
  if moves_to(queue) then
    forget_ranks(queue, ids, members)
  end
  call_in_chunks('ZREM', key, members)
  call_in_chunks('HDEL', MESSAGES, ids)
  call_in_chunks('HDEL', STATES, ids)
  call_in_chunks('HDEL', ERRORS, ids)
  call_in_chunks('HDEL', HOLDERS, ids)
  return #ids
end

local function remove_from(key, highest, id_at)
  local removed, kept = 0, 0
  while removed < limit do
    local ids, members = {}, {}
    local found = redis.call('ZRANGEBYSCORE', key, '-inf', highest, 'LIMIT', kept, limit)
    for _, member in ipairs(found) do
      if (tonumber(sub(member, 1, 16)) or 0) <= last then
        ids[#ids + 1], members[#members + 1] = sub(member, id_at), member
      end
    end
    removed, kept = removed + remove(key, members, ids), kept + #found - #ids
    if #found < limit then
      break
    end
  end
  return removed
end

local removed = remove_from(base .. 'leased:' .. queue, integer(now), AFTER_PAD)
removed = removed + remove_from(base .. 'due:' .. queue, '+inf', 17)
if removed > 0 then
  delete_if_empty(queue)
end
return { removed, integer(last) }

-- ARGV: clock offset, queue, limit, the last arrival that counts or ''. Reply: how many were removed, the last arrival.
-- Removes scheduled and ready messages piecewise, so that a long queue does not stop the server; what arrived
-- after the first piece stays.
local queue, limit = ARGV[2], tonumber(ARGV[3])
local last = ARGV[4] ~= '' and tonumber(ARGV[4]) or tonumber(redis.call('GET', KEYS[1]) or '0')

local function remove(key, members, ids)
  bulk('ZREM', key, members)
  bulk('HDEL', MESSAGES, ids)
  bulk('HDEL', STATES, ids)
  bulk('HDEL', ERRORS, ids)
  return #ids
end

local function remove_from(key, highest, id_at)
  local removed, kept = 0, 0
  while removed < limit do
    local ids, members = {}, {}
    local found = redis.call('ZRANGEBYSCORE', key, '-inf', highest, 'LIMIT', kept, limit)
    for _, member in ipairs(found) do
      if tonumber(sub(member, 1, 16)) <= last then
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

local removed = remove_from(base .. 'leased:' .. queue, whole(now), AFTER_PAD)
removed = removed + remove_from(base .. 'due:' .. queue, '+inf', 17)
if removed > 0 then
  forget_if_empty(queue)
end
return { removed, whole(last) }

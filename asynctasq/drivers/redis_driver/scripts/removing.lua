-- Remove single messages that no worker has.

-- Return the sorted set that holds the message and its member there, if it is a dead letter, or else scheduled or ready
-- (an expired lease counts as ready); and its queue.
local function find_removable(id, wants_dead)
  local value = redis.call('HGET', MESSAGES, id)
  if not value then
    return nil
  end
  local queue, arrival = sub(value, 33, (find(value, '%z', 33) or 33) - 1), sub(value, 1, 16)
  local mode, key, member = sub(redis.call('HGET', STATES, id) or '', 33, 33), base .. 'due:' .. queue, arrival .. id
  if mode == 'D' then
    return wants_dead and base .. 'dead:' .. queue, member, queue
  elseif mode == 'L' then
    key, member = base .. 'leased:' .. queue, arrival .. PAD .. id
    local ends = tonumber(redis.call('ZSCORE', key, member) or nil)
    return not wants_dead and (not ends or ends <= now) and key, member, queue
  end
  return not wants_dead and key, member, queue
end

-- Remove it if it may be; return its queue then.
local function remove_message(id, wants_dead)
  local key, member, queue = find_removable(id, wants_dead)
  if not key then
    return nil
  end
  if moves_to(queue) then
    forget_ranks(queue, { id }, { member })
  end
  redis.call('ZREM', key, member)
  redis.call('HDEL', MESSAGES, id)
  redis.call('HDEL', STATES, id)
  redis.call('HDEL', ERRORS, id)
  redis.call('HDEL', HOLDERS, id)
  return queue
end

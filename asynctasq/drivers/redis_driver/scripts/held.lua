-- Who holds a unique key. That follows from what is stored of the message: it is the one that took the key, not redriven
-- since, no dead letter, and, if the key is held until it is started, was never reserved. So nothing has to free a key.

-- Return the id of the message that still holds a key, from what the hash of keys has.
local function still_holds(entry)
  local id = entry and sub(entry, 34)
  local value = id and redis.call('HGET', MESSAGES, id)
  if not value or sub(value, 1, 32) ~= sub(entry, 1, 32) then
    return nil
  end
  local state = redis.call('HGET', STATES, id)
  if state and (sub(entry, 33, 33) == 's' or sub(state, 33, 33) == 'D') then
    return nil
  end
  return id
end

local function holder_of(key, is_window)
  if not is_window then
    return still_holds(redis.call('HGET', UNIQUE, key))
  end
  local kept = redis.call('GET', base .. 'window:' .. key)
  return kept and tonumber(sub(kept, 1, 16)) > now and sub(kept, 17) or nil
end

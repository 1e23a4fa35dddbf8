-- End attempts. Arguments from `first`: ids, tokens, operations ('C' for a plain completion, else one of K R B),
-- then for every entry that is not plain: detail, flags, text, number of follow-up runs, those runs.
local pending
local ended = {}

-- Tell the clients that wait for the end of these messages, once all is settled: their keys may be damaged, or the server
-- full, and they look for themselves later.
local function tell_ended()
  for _, id in ipairs(ended) do
    tell(id)
  end
end

local function reset_pending()
  pending = { deleted = {}, without_error = {}, states = {}, errors = {}, due = {}, dead = {}, unleased = {}, held = {} }
end

local function flush()
  call_in_chunks('HSET', STATES, pending.states)
  call_in_chunks('HSET', ERRORS, pending.errors)
  for queue, scores in pairs(pending.due) do
    call_in_chunks('ZADD', base .. 'due:' .. queue, scores)
  end
  for queue, scores in pairs(pending.dead) do
    call_in_chunks('ZADD', base .. 'dead:' .. queue, scores)
  end
  for queue, members in pairs(pending.unleased) do
    call_in_chunks('ZREM', base .. 'leased:' .. queue, members)
  end
  call_in_chunks('HDEL', MESSAGES, pending.deleted)
  call_in_chunks('HDEL', STATES, pending.deleted)
  call_in_chunks('HDEL', ERRORS, pending.without_error)
  call_in_chunks('HDEL', HOLDERS, pending.held)
  reset_pending()
end

local function complete(id, state)
  pending.deleted[#pending.deleted + 1] = id
  if byte(state, 34) == HAS_ERROR then
    pending.without_error[#pending.without_error + 1] = id
  end
  return false
end

local function keep_result(id, ttl, result)
  local key = base .. 'result:' .. id
  ended[#ended + 1] = id
  if tonumber(ttl) <= 0 then
    redis.call('DEL', key)
  elseif tonumber(ARGV[1]) == 0 then
    redis.call('SET', key, padded(now + ttl) .. result, 'PX', integer(math.ceil(ttl / 1000)))
  else
    -- The server's own expiry would follow its real clock, not the shifted one that decides.
    redis.call('SET', key, padded(now + ttl) .. result)
  end
end

-- The state of a message that stays: counters changed, no longer leased.
local function unleased_state(id, state, mode, flags, error_flag)
  local attempts = (tonumber(sub(state, 35, 50)) or 0) + sub(flags, 1, 1)
  local crashes = (tonumber(sub(state, 51, 66)) or 0) + sub(flags, 2, 2)
  return sub(state, 1, 32) .. mode .. error_flag .. padded(attempts) .. padded(crashes) .. sub(state, 67)
end

local function release(id, state, arrival, queue, cursor)
  local delay, flags, text = ARGV[cursor], ARGV[cursor + 1], ARGV[cursor + 2]
  local error_flag = sub(state, 34, 34)
  if text ~= '' then
    error_flag = '1'
    append(pending, 'errors', id, text)
  end
  append(pending.due, queue, integer(now + delay), arrival .. id)
  return unleased_state(id, state, 'F', flags, error_flag)
end

local function bury(id, state, arrival, queue, cursor)
  local reason, flags, text = ARGV[cursor], ARGV[cursor + 1], ARGV[cursor + 2]
  local error_flag = '0'
  if text ~= '' then
    error_flag = '1'
    append(pending, 'errors', id, text)
  elseif byte(state, 34) == HAS_ERROR then
    append(pending, 'without_error', id)
  end
  ended[#ended + 1] = id
  append(pending.dead, queue, integer(take_numbers(1) + 1), arrival .. id)
  return unleased_state(id, state, 'D', flags, error_flag) .. '\0' .. reason .. '\0' .. integer(now)
end

-- Return the new state, false if the message is deleted.
local function end_attempt(operation, id, state, arrival, queue, cursor)
  if operation == 'C' then
    return complete(id, state)
  elseif operation == 'R' then
    return release(id, state, arrival, queue, cursor)
  elseif operation == 'B' then
    return bury(id, state, arrival, queue, cursor)
  end
  if operation == 'K' and sub(ARGV[cursor + 1], 3, 3) == '1' then
    keep_result(id, ARGV[cursor], ARGV[cursor + 2])
  end
  return complete(id, state)
end

-- Store the follow-ups of an entry, or skip them if its lease was lost; return the index of the next argument.
-- Where some have unique or fair keys, the number of runs is below 0: so many messages as keyed.lua reads them.
local function follow_up(held, cursor, changed)
  local runs = tonumber(ARGV[cursor + 3])
  cursor = cursor + 4
  if held and runs ~= 0 then
    flush()
  end
  if runs < 0 then
    if held then
      for _, id in ipairs(store_keyed(cursor, -runs, {}).gone) do
        changed[id] = false
      end
    end
    return cursor - 9 * runs
  elseif held and runs > 0 then
    return select(2, store(cursor, runs))
  end
  for _ = 1, runs do
    cursor = cursor + 3 + 2 * tonumber(ARGV[cursor + 2])
  end
  return cursor
end

-- End the attempt of entry `i`; return its queue.
local function apply(i, count, state, cursor, changed)
  local id, operation, arrival = ARGV[i], ARGV[i + 2 * count], sub(state, 1, 16)
  local queue = sub(state, 67)
  append(pending.unleased, queue, arrival .. PAD .. id)
  pending.held[#pending.held + 1] = id
  local after = end_attempt(operation, id, state, arrival, queue, cursor)
  changed[id] = after
  if after then
    append(pending, 'states', id, after)
  end
  return queue
end

local function settle_chunk(count, start, stop, cursor, changed, touched, lost)
  local states = redis.call('HMGET', STATES, unpack(ARGV, start, stop))
  local offset, twice = start - 1, 2 * count
  for i = start, stop do
    local id, plain = ARGV[i], ARGV[i + twice] == 'C'
    -- A second entry for a message sees the state that the first one left.
    local state = changed[id]
    if state == nil then
      state = states[i - offset]
    end
    local held = is_held(state, ARGV[i + count])
    if held then
      local queue = apply(i, count, state, cursor, changed)
      touched[queue] = touched[queue] or ARGV[i + twice] == 'R'
    else
      lost[#lost + 1] = id
    end
    if not plain then
      cursor = follow_up(held, cursor, changed)
    end
  end
  return cursor
end

local function settle(first, count)
  local changed, touched, lost, cursor = {}, {}, {}, first + 3 * count
  reset_pending()
  for start = first, first + count - 1, CHUNK do
    local stop = min(start + CHUNK - 1, first + count - 1)
    cursor = settle_chunk(count, start, stop, cursor, changed, touched, lost)
  end
  flush()
  for queue, released in pairs(touched) do
    if released then
      wake(queue)
    end
    delete_if_empty(queue)
  end
  tell_ended()
  return lost
end

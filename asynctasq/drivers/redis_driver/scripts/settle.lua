-- End attempts. Arguments from `first`: ids, tokens, operations ('C' for a plain completion, else one of K R B),
-- then for every entry that is not plain: detail, flags, text, number of follow-up runs, those runs.
local pending

local function forget_pending()
  pending = { gone = {}, faultless = {}, states = {}, errors = {}, placed = {}, buried = {}, left = {} }
end

local function append(lists, key, first, second)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  list[#list + 1] = first
  if second then
    list[#list + 1] = second
  end
end

local function flush()
  bulk('HSET', STATES, pending.states)
  bulk('HSET', ERRORS, pending.errors)
  for queue, places in pairs(pending.placed) do
    bulk('ZADD', base .. 'due:' .. queue, places)
  end
  for queue, places in pairs(pending.buried) do
    bulk('ZADD', base .. 'dead:' .. queue, places)
  end
  for queue, members in pairs(pending.left) do
    bulk('ZREM', base .. 'leased:' .. queue, members)
  end
  bulk('HDEL', MESSAGES, pending.gone)
  bulk('HDEL', STATES, pending.gone)
  bulk('HDEL', ERRORS, pending.faultless)
  forget_pending()
end

local function complete(id, state)
  pending.gone[#pending.gone + 1] = id
  if byte(state, 34) == FAULTY then
    pending.faultless[#pending.faultless + 1] = id
  end
  return false
end

local function keep_result(id, ttl, result)
  local key = base .. 'result:' .. id
  if tonumber(ttl) <= 0 then
    redis.call('DEL', key)
  elseif tonumber(ARGV[1]) == 0 then
    redis.call('SET', key, digits(now + ttl) .. result, 'PX', whole(math.ceil(ttl / 1000)))
  else
    -- The server's own expiry would follow its real clock, not the shifted one that decides.
    redis.call('SET', key, digits(now + ttl) .. result)
  end
end

-- The state of a message that lives on: counters moved, no longer leased.
local function ended(id, state, mode, flags, faulty)
  local attempts = tonumber(sub(state, 35, 50)) + sub(flags, 1, 1)
  local crashes = tonumber(sub(state, 51, 66)) + sub(flags, 2, 2)
  return sub(state, 1, 32) .. mode .. faulty .. digits(attempts) .. digits(crashes) .. sub(state, 67)
end

local function release(id, state, arrival, queue, cursor)
  local delay, flags, text = ARGV[cursor], ARGV[cursor + 1], ARGV[cursor + 2]
  local faulty = sub(state, 34, 34)
  if text ~= '' then
    faulty = '1'
    append(pending, 'errors', id, text)
  end
  append(pending.placed, queue, whole(now + delay), arrival .. id)
  return ended(id, state, 'F', flags, faulty)
end

local function bury(id, state, arrival, queue, cursor)
  local reason, flags, text = ARGV[cursor], ARGV[cursor + 1], ARGV[cursor + 2]
  local faulty = '0'
  if text ~= '' then
    faulty = '1'
    append(pending, 'errors', id, text)
  elseif byte(state, 34) == FAULTY then
    append(pending, 'faultless', id)
  end
  append(pending.buried, queue, redis.call('INCR', KEYS[1]), arrival .. id)
  return ended(id, state, 'D', flags, faulty) .. '\0' .. reason .. '\0' .. whole(now)
end

-- Return the new state, false once the message is gone.
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

-- Store the follow-ups of an entry, or skip them if its lease was lost; return where the arguments go on.
local function follow_up(held, cursor)
  local runs = tonumber(ARGV[cursor + 3])
  cursor = cursor + 4
  if held and runs > 0 then
    flush()
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
  append(pending.left, queue, arrival .. PAD .. id)
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
    -- What this call has made of a message: a second entry for it is judged by the first one.
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
      cursor = follow_up(held, cursor)
    end
  end
  return cursor
end

local function settle(first, count)
  local changed, touched, lost, cursor = {}, {}, {}, first + 3 * count
  forget_pending()
  for start = first, first + count - 1, CHUNK do
    local stop = min(start + CHUNK - 1, first + count - 1)
    cursor = settle_chunk(count, start, stop, cursor, changed, touched, lost)
  end
  flush()
  for queue, released in pairs(touched) do
    if released then
      wake(queue)
    end
    forget_if_empty(queue)
  end
  return lost
end

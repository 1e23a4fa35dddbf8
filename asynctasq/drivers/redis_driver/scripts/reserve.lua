-- Lease visible messages: first by visible_at, then by arrival, expired leases among them.
-- One call makes about so many dead letters of damaged messages, so that it does not block the server.
local DAMAGED_MAX = 1000
local BY_RANK = byte(':')
-- Blanks that keep the hash of the holders from being packed.
local NO_PROGRESS = '\0' .. string.rep(' ', 65)

-- Merge two lists of member, score, member, score, ... in the order of the queue; return members, whether each
-- was an expired lease, and how many came from the first list.
local function merge(fresh, expired, room)
  local members, crashed, f, e = {}, {}, 1, 1
  while #members < room and (fresh[f] or expired[e]) do
    local first = not expired[e]
    if fresh[f] and expired[e] then
      local left, right = tonumber(fresh[f + 1]), tonumber(expired[e + 1])
      -- Only the digits are compared: what follows could be ordered by the server's locale.
      first = left < right or (left == right and sub(fresh[f], 1, 16) < sub(expired[e], 1, 16))
    end
    if first then
      members[#members + 1], f = fresh[f], f + 2
    else
      members[#members + 1], e = expired[e], e + 2
      crashed[#members] = true
    end
  end
  return members, crashed, (f - 1) / 2
end

-- Return members to lease of one queue, which of them crashed, how many of them are not leased yet.
local function choose(due, leased, room)
  local expired = redis.call('ZRANGEBYSCORE', leased, '-inf', integer(now), 'WITHSCORES', 'LIMIT', 0, room)
  if #expired == 0 then
    local members = redis.call('ZRANGEBYSCORE', due, '-inf', integer(now), 'LIMIT', 0, room)
    return members, {}, #members
  end
  local fresh = redis.call('ZRANGEBYSCORE', due, '-inf', integer(now), 'WITHSCORES', 'LIMIT', 0, room)
  return merge(fresh, expired, room)
end

-- The state under the new lease. The token is the time of the reserve, but always above the one before, so that
-- it never repeats: not within a microsecond, nor when a failover lost the latest reserve.
local function leased_state(state, crashed)
  local token = math.max(tonumber(sub(state, 17, 32)) + 1, now)
  local crashes = tonumber(sub(state, 51, 66)) + (crashed and 1 or 0)
  return sub(state, 1, 16) .. padded(token) .. 'L' .. sub(state, 34, 50) .. padded(crashes) .. sub(state, 67)
end

-- Return messages of a line by rank as they are stored in the line to which they move.
local function moved(values, ids, queue, line)
  local at, written, count = 33 + #queue, {}, 0
  for i = 1, #ids do
    if values[i] and sub(values[i], 33, at) == queue .. '\0' then
      values[i] = sub(values[i], 1, 32) .. line .. sub(values[i], at)
      written[count + 1], written[count + 2], count = ids[i], values[i], count + 2
    end
  end
  call_in_chunks('HSET', MESSAGES, written)
  redis.call('SADD', QUEUES, line)
  return values
end

-- Return how many were found, and how many of them are leased now; the others were damaged.
local function lease_from(queue, room, until_at, holder, reply, damaged)
  local due, expired, line = base .. 'due:' .. queue, base .. 'leased:' .. queue, moves_to(queue)
  local members, crashed, fresh = choose(due, expired, room)
  if #members == 0 then
    return 0, 0
  end
  local ids = {}
  for i = 1, #members do
    ids[i] = sub(members[i], crashed[i] and AFTER_PAD or 17)
  end
  local values, states, from = fetch(MESSAGES, ids), fetch(STATES, ids), queue
  if line then
    values = moved(values, ids, queue, line)
    forget_ranks(queue, ids, members)
    queue = line
  end
  local first_state = padded(now) .. 'L0' .. NO_COUNTS .. queue
  local written, scores, held, removed, at, last = {}, {}, {}, {}, #reply, 0
  for i = 1, #ids do
    local id, arrival = ids[i], sub(members[i], 1, 16)
    local member = arrival .. PAD .. id
    local readable, stray = is_readable(id, arrival, queue, values[i], states[i]), crashed[i] and members[i] ~= member
    if readable and not stray then
      local state = states[i] and leased_state(states[i], crashed[i]) or arrival .. first_state
      written[last + 1], written[last + 2] = id, state
      scores[last + 1], scores[last + 2] = until_at, member
      held[last + 1], held[last + 2] = id, holder
      reply[at + 1], reply[at + 2], reply[at + 3] = id, state, values[i]
      at, last = at + 3, last + 2
    else
      stray = stray or is_stray(arrival, id, queue, values[i], states[i])
      bury_damaged(members[i], id, queue, values[i], states[i], damaged, stray)
      redis.call('HDEL', HOLDERS, id)
      if crashed[i] then
        removed[#removed + 1] = members[i]
      end
    end
  end
  call_in_chunks('HSET', STATES, written)
  call_in_chunks('ZADD', base .. 'leased:' .. queue, scores)
  call_in_chunks('HSET', HOLDERS, held)
  call_in_chunks('ZREM', expired, removed)
  if fresh > 0 then
    redis.call('ZREMRANGEBYRANK', due, 0, fresh - 1)
  end
  if line then
    delete_if_empty(from)
  end
  return #members, last / 2
end

-- Whether a line other than the queue's own holds a message that is no dead letter: most queues have none.
local function any_other_in_use(first, count)
  local keys = {}
  for i = first, first + count - 1 do
    if find(ARGV[i], '!', 1, true) then
      keys[#keys + 1] = base .. 'due:' .. ARGV[i]
      if byte(ARGV[i], -1) ~= BY_RANK then
        keys[#keys + 1] = base .. 'leased:' .. ARGV[i]
      end
    end
  end
  return #keys > 0 and redis.call('EXISTS', unpack(keys)) > 0
end

-- Return the end of the leases, then id, state and stored message of each; and what bury_damaged tells of each.
local function reserve(first, queues, limit, lease, holder)
  local until_at = integer(now + lease)
  local reply, damaged = { until_at }, {}
  holder = holder .. NO_PROGRESS
  local has_others = any_other_in_use(first, queues)
  for i = first, first + queues - 1 do
    local is_used = has_others or not find(ARGV[i], '!', 1, true)
    while is_used and limit > 0 and #damaged < 3 * DAMAGED_MAX do
      local found, leased_count = lease_from(ARGV[i], min(limit, 1000), until_at, holder, reply, damaged)
      limit = limit - leased_count
      if found == 0 then
        break
      elseif leased_count < found then
        delete_if_empty(ARGV[i])
      end
    end
    -- A client that could not take all wakes the next one, so one token is enough for many messages.
    if limit == 0 and is_used then
      local waiting = base .. 'waiting:' .. string.match(ARGV[i], '^[^!]*')
      if redis.call('EXISTS', waiting) == 1 and first_visible(ARGV[i]) <= now then
        wake(ARGV[i])
      end
    end
  end
  return reply, damaged
end

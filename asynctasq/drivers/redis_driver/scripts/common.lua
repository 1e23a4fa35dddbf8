-- What every operation starts with: the clock, the keys and the shape of a record. Stores nothing by itself.
--
-- KEYS[1] is '{namespace}:sequence'. Every other key of the namespace has the same hash tag, so it lies in the
-- same slot of a cluster, and its name is derived here instead of being declared: which queues a settlement or
-- a message found by its id belongs to is known only once it was read.
--
--   messages   hash   id -> arrival(16) enqueued(16) queue NUL body      rewritten by a redrive, and when it moves to another line
--   states     hash   id -> arrival(16) token(16) mode(1) error(1) attempts(16) crashes(16) queue
--                     only once a message was reserved; a dead letter adds NUL reason NUL time of death
--                     mode: L leased, D dead letter, F neither; error: 1 if there is one
--   errors     hash   id -> the last error, as JSON
--   holders    hash   id -> who holds the lease, NUL, the progress as JSON once it was reported, before that blanks
--   fair       hash   id -> fair key, of messages that wait by rank
--   ranks:Q    zset   fair key NUL rank(16) of the messages that wait in Q by rank, all scored 0: it is a sorted list of texts
--   due:Q      zset   arrival(16) id, scored by visible_at, or by rank: not leased (scheduled or ready)
--   leased:Q   zset   arrival(16) PAD id, scored by the end of the lease (reserved, or expired)
--   dead:Q     zset   arrival(16) id, scored by the order of death
--   queues     set    names of the queues that hold a message
--   unique     hash   key -> arrival(16) enqueued(16) until(1) id, of the message that took the key last
--                     until: s started, d done
--   window:K   string expiry(16) id of who took this key; expires
--   result:I   string expiry(16) result
--   ending:I   set    inboxes of the clients that wait for the end of a message, or, where a line feed and the name of a
--                     holder stand for the id, for news of what was cancelled of it; expires
--   inbox:C    list   what was waited for and has happened, for one client; expires
--   waiting:Q  string somebody waits for this queue; expires
--   wake:Q     list   at most one wake-up token, for one of the waiting clients; expires
--
-- Q is a line: a queue and what tells its level of priority, nothing for normal, and whether it is one by rank. A message
-- moves from there to the line by time when it is first reserved. `waiting` and `wake` are per queue.
--
-- Instants are whole microseconds. They and all counters stay far below 2^53, so Lua's doubles hold them
-- exactly; texts are made by string.format, because tostring would round them.
--
-- Writes that need memory come before those that free it: where the server refuses the former, the script
-- ends before anything was changed.
--
-- Redis packs a small hash or sorted set into one list that every access walks through, which takes most of the
-- time of a worker with a hundred leases, unless a value is longer than 64 bytes: hence PAD and the wide counters
-- in what only exists for messages that were reserved.
local CHUNK = 2000
local PAD = string.rep('.', 49)
local AFTER_PAD = 66
local NUMBER_END = 9e15
local NO_COUNTS = string.rep('0', 32)
local ARGV = ARGV
local base = string.match(KEYS[1], '^(.*:)')
local MESSAGES, STATES, ERRORS, QUEUES = base .. 'messages', base .. 'states', base .. 'errors', base .. 'queues'
local HOLDERS, UNIQUE, FAIR = base .. 'holders', base .. 'unique', base .. 'fair'
local sub, byte, find, format, min = string.sub, string.byte, string.find, string.format, math.min
local LEASED, HAS_ERROR = byte('L'), byte('1')
-- While a cluster moves our slot to another node, a script fails at the first key that is not here, or not yet made: this
-- one never is, so that it fails before anything was changed.
redis.call('EXISTS', base .. 'none')
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2] + ARGV[1]

-- 16 digits, so that texts sort as their numbers do.
local function padded(number)
  return format('%016.0f', number)
end

local function integer(number)
  return format('%.0f', number)
end

-- Take so many numbers of the sequence and return the one before them. What no driver has set it to is left for the time,
-- which is above every number given out.
local function take_numbers(count)
  local last = redis.call('INCRBY', KEYS[1], count)
  if last < count or last >= NUMBER_END then
    redis.call('SET', KEYS[1], integer(now))
    last = redis.call('INCRBY', KEYS[1], count)
  end
  return last - count
end

-- Whether this token is the latest, and its lease was not ended.
local function is_held(state, token)
  return state and byte(state, 33) == LEASED and sub(state, 1, 32) == token
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

-- unpack fails beyond 8000 values, so long argument lists are split; pairs stay together as CHUNK is even.
local function call_in_chunks(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, min(first + CHUNK - 1, #values)))
  end
end

local function fetch(key, ids)
  if #ids == 0 then
    return {}
  elseif #ids <= CHUNK then
    return redis.call('HMGET', key, unpack(ids))
  end
  local all = {}
  for first = 1, #ids, CHUNK do
    local piece = redis.call('HMGET', key, unpack(ids, first, min(first + CHUNK - 1, #ids)))
    for i = 1, #piece do
      all[#all + 1] = piece[i]
    end
  end
  return all
end

-- Score of the first member of a sorted set, nil if it is empty.
local function first_score(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

-- The lines of a queue by time, then those by rank.
local function lines_of(queue)
  return { queue .. '!h', queue, queue .. '!l' }
end

local function ranked_lines_of(queue)
  return { queue .. '!h:', queue .. '!n:', queue .. '!l:' }
end

-- The line by time to which messages of a line by rank move; nil for any other line.
local function moves_to(line)
  local queue, level = string.match(line, '^([^!]*)!([hnl]):$')
  return queue and (level == 'n' and queue or queue .. '!' .. level)
end

-- Forget the ranks of messages that are about to leave a line by rank.
local function forget_ranks(line, ids, members)
  local keys, gone = fetch(FAIR, ids), {}
  for i = 1, #ids do
    local rank = keys[i] and redis.call('ZSCORE', base .. 'due:' .. line, members[i])
    if rank then
      gone[#gone + 1] = keys[i] .. '\0' .. padded(tonumber(rank))
    end
  end
  call_in_chunks('ZREM', base .. 'ranks:' .. line, gone)
  call_in_chunks('HDEL', FAIR, ids)
end

-- When the first message of a line is visible, infinity if none will be.
local function first_visible(line)
  return min(first_score(base .. 'due:' .. line) or math.huge, first_score(base .. 'leased:' .. line) or math.huge)
end

local function first_visible_in(queue)
  local lines, ranked = lines_of(queue), ranked_lines_of(queue)
  if redis.call('EXISTS', base .. 'due:' .. ranked[1], base .. 'due:' .. ranked[2], base .. 'due:' .. ranked[3]) > 0 then
    return 0
  end
  return min(first_visible(lines[1]), first_visible(lines[2]), first_visible(lines[3]))
end

-- Push one wake-up token, if somebody waits and no token is there. The blocked client gets it when the script ends.
local function wake(line)
  local queue = string.match(line, '^[^!]*')
  local wake_key = base .. 'wake:' .. queue
  if redis.call('EXISTS', base .. 'waiting:' .. queue) == 1 and redis.call('EXISTS', wake_key) == 0 then
    redis.call('LPUSH', wake_key, '1')
    redis.call('PEXPIRE', wake_key, 20000)
  end
end

-- Tell the clients that wait for the end of a message, or for news of a holder: of those there may be more.
local function tell(name)
  local inboxes = redis.pcall('SMEMBERS', base .. 'ending:' .. name)
  for i = 1, #inboxes do
    local inbox = base .. 'inbox:' .. inboxes[i]
    redis.pcall('RPUSH', inbox, name)
    redis.pcall('PEXPIRE', inbox, 20000)
  end
  if #inboxes > 0 and byte(name) ~= 10 then
    redis.call('DEL', base .. 'ending:' .. name)
  end
end

-- Delete the keys of a line, of its queue, and of the namespace, that holds no message any more.
local function delete_if_empty(line)
  if redis.call('EXISTS', base .. 'due:' .. line, base .. 'leased:' .. line, base .. 'dead:' .. line) == 0 then
    redis.call('SREM', QUEUES, line)
    if moves_to(line) then
      redis.call('DEL', base .. 'ranks:' .. line)
    end
    local queue = string.match(line, '^[^!]*')
    local others = redis.call('SMISMEMBER', QUEUES, unpack(lines_of(queue)))
    local ranked = redis.call('SMISMEMBER', QUEUES, unpack(ranked_lines_of(queue)))
    if others[1] + others[2] + others[3] + ranked[1] + ranked[2] + ranked[3] == 0 then
      redis.call('DEL', base .. 'wake:' .. queue)
    end
    if redis.call('EXISTS', MESSAGES) == 0 then
      redis.call('DEL', KEYS[1], HOLDERS, UNIQUE, FAIR)
    end
  end
end

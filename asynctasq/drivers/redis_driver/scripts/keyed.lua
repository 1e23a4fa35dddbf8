-- Store messages of which some have unique or fair keys. They come one by one: queue, delay, id, body, unique key or '',
-- until ('s', 'd', or 'w' for a window), window, what a conflict comes to ('skip', 'replace', 'raise'), fair key or ''.
local FIELDS = 9

local function read_keyed(at)
  return {
    queue = ARGV[at], delay = ARGV[at + 1], id = ARGV[at + 2], body = ARGV[at + 3],
    key = ARGV[at + 4], is_window = ARGV[at + 5] == 'w', untils = ARGV[at + 5],
    window = ARGV[at + 6], on_conflict = ARGV[at + 7], fair_key = ARGV[at + 8],
  }
end

-- Decide about one message after those before it in the batch; return false if nothing of the batch may be stored.
local function plan_keyed(message, plan)
  local id, stored, removed = message.id, plan.stored, plan.removed
  if stored[id] or (redis.call('HEXISTS', MESSAGES, id) == 1 and not removed[id]) then
    return true
  end
  if message.key ~= '' then
    local place = (message.is_window and 'w' or 'k') .. message.key
    local holder = plan.held[place]
    if not holder or not (message.is_window or stored[holder]) then
      holder = holder_of(message.key, message.is_window)
      if holder and removed[holder] and not message.is_window then
        holder = nil
      end
    end
    if holder == id then
      return true
    elseif holder and message.on_conflict == 'replace'
      and (stored[holder] or (not removed[holder] and find_removable(holder, false))) then
      if stored[holder] then
        stored[holder] = nil
      else
        removed[holder] = true
      end
      append(plan, 'replaced', holder, id)
      message.replaces = holder
    elseif holder then
      append(plan, 'refused', id, holder)
      return message.on_conflict ~= 'raise'
    end
    plan.held[place] = id
  end
  stored[id] = message
  plan.order[#plan.order + 1] = message
  return true
end

local function hold_key(message, header)
  if message.key == '' then
    return
  elseif not message.is_window then
    redis.call('HSET', UNIQUE, message.key, header .. message.untils .. message.id)
    return
  end
  local key, value = base .. 'window:' .. message.key, padded(now + message.window) .. message.id
  if tonumber(ARGV[1]) == 0 then
    redis.call('SET', key, value, 'PX', integer(math.ceil(message.window / 1000)))
  else
    -- The server's own expiry would follow its real clock, not the shifted one that decides.
    redis.call('SET', key, value)
  end
end

-- Take the next rank of a key: behind what waits of it, and behind who is first in line. A rank is never later than
-- now: whatever others have stored there, the message is visible.
local function take_rank(line, key, id)
  local ranks = base .. 'ranks:' .. line
  local last = redis.call('ZREVRANGEBYLEX', ranks, '(' .. key .. '\1', '[' .. key .. '\0', 'LIMIT', 0, 1)[1]
  local rank = 1 + math.max(first_score(base .. 'due:' .. line) or 0, last and tonumber(sub(last, -16)) or 0)
  rank = min(rank, now)
  redis.call('ZADD', ranks, 0, key .. '\0' .. padded(rank))
  redis.call('HSET', FAIR, id, key)
  return rank
end

local function store_message(message)
  local number = padded(take_numbers(1) + 1)
  local header = number .. padded(now)
  local place = now + message.delay
  if message.fair_key ~= '' then
    place = take_rank(message.queue, message.fair_key, message.id)
  end
  redis.call('ZADD', base .. 'due:' .. message.queue, integer(place), number .. message.id)
  redis.call('HSET', MESSAGES, message.id, header .. message.queue .. '\0' .. message.body)
  redis.call('SADD', QUEUES, message.queue)
  hold_key(message, header)
  wake(message.queue)
end

local function remove_replaced(id, plan)
  local queue = remove_message(id, false)
  plan.gone[#plan.gone + 1] = id
  plan.touched[queue] = true
end

-- Append the new ids to `new`; return the plan: pairs of `refused` and `replaced` ids, those `gone`, and whether a
-- conflict has `failed` the batch.
local function store_keyed(at, count, new)
  local plan = {
    stored = {}, removed = {}, held = {}, order = {}, gone = {}, touched = {}, refused = {}, replaced = {}, failed = 0,
  }
  for i = 0, count - 1 do
    if not plan_keyed(read_keyed(at + i * FIELDS), plan) then
      plan.failed = 1
      return plan
    end
  end
  -- One after the other, so that ranks are those of messages stored one by one: what a later one replaces is stored, too.
  for _, message in ipairs(plan.order) do
    if message.replaces then
      remove_replaced(message.replaces, plan)
    end
    store_message(message)
    if plan.stored[message.id] == message then
      new[#new + 1] = message.id
    end
  end
  for queue in pairs(plan.touched) do
    delete_if_empty(queue)
  end
  return plan
end

-- What no driver has written: whoever may write to the server may damage what a queue consists of.
local VALUE = '^' .. string.rep('%d', 32)
local STATE = VALUE .. '[LF][01]' .. string.rep('%d', 32)
-- Beyond these the next reserve, or the next attempt, would leave the shape of a state.
local TOKEN_END, COUNT_END = '9000000000000000', '0000001073741824'

local function is_utf8(text)
  local i = 1
  while i <= #text do
    local first, second = byte(text, i), byte(text, i + 1) or 0
    local more = first < 0x80 and 0 or first < 0xC2 and 4 or first < 0xE0 and 1 or first < 0xF0 and 2 or first < 0xF5 and 3 or 4
    if more > 0 and not find(text, '^' .. string.rep('[\128-\191]', more), i + 1) or more == 4 then
      return false
    elseif (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F)
      or (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F) then
      return false
    end
    i = i + 1 + more
  end
  return true
end

local function is_id(id)
  return #id > 0 and #id <= 512 and not find(id, '%c') and (not find(id, '[\128-\255]') or is_utf8(id))
end

-- Whether a message that is not a dead letter is stored as drivers store it; `state` is false before its first reserve.
local function is_readable(id, arrival, queue, value, state)
  return value and is_id(id) and find(value, VALUE) and sub(value, 1, 16) == arrival
    and sub(value, 33, 33 + #queue) == queue .. '\0'
    and (not state or (find(state, STATE) and sub(state, 1, 16) == arrival and sub(state, 67) == queue
      and sub(state, 17, 32) < TOKEN_END and sub(state, 35, 50) < COUNT_END and sub(state, 51, 66) < COUNT_END))
end

local function shown(text)
  local plain = string.gsub(sub(text, 1, 80), '[^%w%p ]', function(c) return format('\\x%02x', byte(c)) end)
  return "'" .. plain .. "'"
end

-- Whether only the member is damaged, which leads to nothing, to a dead letter, or to a message of another place.
local function is_stray(arrival, id, queue, value, state)
  local ends = value and find(value, VALUE) and find(value, '%z', 33)
  if not value or (ends and (sub(value, 33, ends - 1) ~= queue or sub(value, 1, 16) ~= arrival)) then
    return true
  end
  return state and sub(state, 33, 33) == 'D' and redis.call('ZSCORE', base .. 'dead:' .. queue, arrival .. id)
end

-- Make a dead letter of a message that is not readable, under an id that can be stored; the caller removes the member.
-- Append to `found` the id, '' if only the member was damaged, the queue, and what was wrong, as an error record.
local function bury_damaged(member, id, queue, value, state, found, stray)
  local text = 'what is stored of this message is damaged; it was: member ' .. shown(member)
  if value then
    text = text .. ', message ' .. shown(value) .. ', state ' .. shown(state or '')
  end
  local report = cjson.encode({ 'DamagedMessage', text, '' })
  local at, ends = #found, value and find(value, VALUE) and find(value, '%z', 33)
  found[at + 1], found[at + 2], found[at + 3] = '', queue, report
  if stray then
    if not value then
      redis.call('HDEL', STATES, id)
      redis.call('HDEL', ERRORS, id)
    end
    return
  end
  local arrival = padded(take_numbers(1) + 1)
  local kept = is_id(id) and id or 'damaged-' .. integer(tonumber(arrival)) .. '-' .. integer(now)
  local body = ends and sub(value, ends + 1) or value
  redis.call('HSET', MESSAGES, kept, arrival .. padded(now) .. queue .. '\0' .. body)
  redis.call('HSET', STATES, kept, arrival .. padded(now) .. 'D1' .. NO_COUNTS .. queue .. '\0undecodable\0' .. integer(now))
  redis.call('HSET', ERRORS, kept, report)
  redis.call('ZADD', base .. 'dead:' .. queue, integer(take_numbers(1) + 1), arrival .. kept)
  redis.call('SADD', QUEUES, queue)
  if kept ~= id then
    redis.call('HDEL', MESSAGES, id)
    redis.call('HDEL', STATES, id)
    redis.call('HDEL', ERRORS, id)
  end
  found[at + 1] = kept
end

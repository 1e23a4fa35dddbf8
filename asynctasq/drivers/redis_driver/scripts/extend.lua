-- ARGV: clock offset, lease, count, ids, tokens. Reply: the ids of lost leases.
local count, ends = tonumber(ARGV[3]), now + ARGV[2]
local until_at = integer(ends)
local lost, scores = {}, {}
for start = 4, 3 + count, CHUNK do
  local stop = min(start + CHUNK - 1, 3 + count)
  local states = redis.call('HMGET', STATES, unpack(ARGV, start, stop))
  for i = start, stop do
    local state, token = states[i - start + 1], ARGV[i + count]
    if is_held(state, token) then
      local queue = sub(state, 67)
      local list = scores[queue] or {}
      scores[queue] = list
      list[#list + 1] = until_at
      list[#list + 1] = sub(token, 1, 16) .. PAD .. ARGV[i]
    else
      lost[#lost + 1] = ARGV[i]
    end
  end
end
-- A waiting client sleeps until the first message of the queue is visible: wake it only for an earlier one.
for queue, list in pairs(scores) do
  local leased = base .. 'leased:' .. queue
  local first = first_visible(queue)
  call_in_chunks('ZADD', leased, list)
  if ends < first then
    wake(queue)
  end
end
return lost

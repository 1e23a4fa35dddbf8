-- ARGV: clock offset, queue, limit. Reply: how many dead letters went back to ready.
-- The oldest death of all lines first.
local limit, moved, touched = tonumber(ARGV[3]), 0, {}

-- Return the line with the oldest death, nil if there is none, and the first death of the other lines.
local function oldest_dead()
  local oldest, first, second = nil, math.huge, math.huge
  for _, line in ipairs(lines_of(ARGV[2])) do
    local died = first_score(base .. 'dead:' .. line) or math.huge
    if died < first then
      oldest, first, second = line, died, first
    else
      second = min(second, died)
    end
  end
  return oldest, second == math.huge and '+inf' or integer(second)
end

while moved < limit do
  local line, before = oldest_dead()
  if not line then
    break
  end
  local members = redis.call('ZRANGEBYSCORE', base .. 'dead:' .. line, '-inf', before, 'LIMIT', 0, min(1000, limit - moved))
  touched[line] = true
  moved = moved + #redrive_members(line, members)
end
if moved > 0 then
  wake(ARGV[2])
end
for line in pairs(touched) do
  delete_if_empty(line)
end
return moved

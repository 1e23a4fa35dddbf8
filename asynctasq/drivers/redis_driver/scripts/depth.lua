-- ARGV: clock offset, queue. Reply: ready, scheduled, reserved, dead, age of the oldest in microseconds or ''.
local ready, scheduled, reserved, dead, oldest = 0, 0, 0, 0, math.huge
for _, line in ipairs(lines_of(ARGV[2])) do
  local due, leased = base .. 'due:' .. line, base .. 'leased:' .. line
  local visible = redis.call('ZCOUNT', due, '-inf', integer(now))
  local expired = redis.call('ZCOUNT', leased, '-inf', integer(now))
  ready = ready + visible + expired
  scheduled = scheduled + redis.call('ZCARD', due) - visible
  reserved = reserved + redis.call('ZCARD', leased) - expired
  dead = dead + redis.call('ZCARD', base .. 'dead:' .. line)
  oldest = min(oldest, first_visible(line))
end
for _, line in ipairs(ranked_lines_of(ARGV[2])) do
  local first = redis.call('ZRANGE', base .. 'due:' .. line, 0, 0)[1]
  if first then
    ready = ready + redis.call('ZCARD', base .. 'due:' .. line)
    oldest = min(oldest, tonumber(sub(redis.call('HGET', MESSAGES, sub(first, 17)) or '', 17, 32)) or now)
  end
end
return { ready, scheduled, reserved, dead, oldest <= now and integer(min(now - oldest, 2 ^ 53)) or '' }

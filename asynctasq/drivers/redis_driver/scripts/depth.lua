-- ARGV: clock offset, queue. Reply: ready, scheduled, reserved, dead, age of the oldest in microseconds or ''.
local due, leased = base .. 'due:' .. ARGV[2], base .. 'leased:' .. ARGV[2]
local ready = redis.call('ZCOUNT', due, '-inf', integer(now))
local expired = redis.call('ZCOUNT', leased, '-inf', integer(now))
local oldest = min(first_score(due) or math.huge, first_score(leased) or math.huge)
return {
  ready + expired,
  redis.call('ZCARD', due) - ready,
  redis.call('ZCARD', leased) - expired,
  redis.call('ZCARD', base .. 'dead:' .. ARGV[2]),
  oldest <= now and integer(min(now - oldest, 2 ^ 53)) or '',
}

-- ARGV: clock offset, queue. Reply: ready, scheduled, reserved, dead, age of the oldest in microseconds or ''.
local due, leased = base .. 'due:' .. ARGV[2], base .. 'leased:' .. ARGV[2]
local ready = redis.call('ZCOUNT', due, '-inf', whole(now))
local expired = redis.call('ZCOUNT', leased, '-inf', whole(now))
local oldest = min(head(due) or math.huge, head(leased) or math.huge)
return {
  ready + expired,
  redis.call('ZCARD', due) - ready,
  redis.call('ZCARD', leased) - expired,
  redis.call('ZCARD', base .. 'dead:' .. ARGV[2]),
  oldest <= now and whole(now - oldest) or '',
}

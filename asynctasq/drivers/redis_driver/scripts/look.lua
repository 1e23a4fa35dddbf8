-- ARGV: clock offset, milliseconds the caller will wait at most, queues.
-- Reply: microseconds until the next message is visible, 0 when one is, -1 when none will be.
-- With nothing visible the caller is noted as waiting; tokens left for these queues speak of messages that
-- others took meanwhile, and are dropped.
local first = math.huge
for i = 3, #ARGV do
  first = min(first, head(base .. 'due:' .. ARGV[i]) or math.huge, head(base .. 'leased:' .. ARGV[i]) or math.huge)
end
if first <= now then
  return 0
end
local bells = {}
for i = 3, #ARGV do
  redis.call('SET', base .. 'waiting:' .. ARGV[i], '1', 'PX', ARGV[2])
  bells[i - 2] = base .. 'wake:' .. ARGV[i]
end
redis.call('DEL', unpack(bells))
return first == math.huge and -1 or first - now

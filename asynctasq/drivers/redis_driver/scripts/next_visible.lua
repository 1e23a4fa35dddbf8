-- ARGV: clock offset, milliseconds the caller will wait at most, queues.
-- Reply: microseconds until the next message is visible, 0 when one is, -1 when none will be.
-- With nothing visible the caller is noted as waiting. Wake-up tokens left for these queues are deleted: others have
-- taken the messages they announced.
local first = math.huge
for i = 3, #ARGV do
  first = min(first, first_visible_in(ARGV[i]))
end
if first <= now then
  return 0
end
local wake_keys = {}
for i = 3, #ARGV do
  redis.call('SET', base .. 'waiting:' .. ARGV[i], '1', 'PX', ARGV[2])
  wake_keys[i - 2] = base .. 'wake:' .. ARGV[i]
end
redis.call('DEL', unpack(wake_keys))
return first == math.huge and -1 or first - now

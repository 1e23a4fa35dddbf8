-- ARGV: clock offset, count, ids, tokens, progress of each. Store that of the messages whose leases are held.
local count = tonumber(ARGV[2])
for i = 3, 2 + count do
  local id = ARGV[i]
  if is_held(redis.call('HGET', STATES, id), ARGV[i + count]) then
    local holder = string.match(redis.call('HGET', HOLDERS, id) or '', '^%Z*')
    redis.call('HSET', HOLDERS, id, holder .. '\0' .. ARGV[i + 2 * count])
  end
end
return 0

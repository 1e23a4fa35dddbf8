-- ARGV: clock offset, id. Reply: the result, or nothing once it has expired.
local key = base .. 'result:' .. ARGV[2]
local kept = redis.call('GET', key)
if kept and tonumber(sub(kept, 1, 16)) <= now then
  redis.call('DEL', key)
  return false
end
return kept and sub(kept, 17)

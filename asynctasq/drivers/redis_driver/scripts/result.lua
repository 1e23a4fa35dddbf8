-- ARGV: clock offset, id. Reply: the result, or nothing once it has expired.
local key = base .. 'result:' .. ARGV[2]
local kept = redis.call('TYPE', key).ok ~= 'string' and '' or redis.call('GET', key)
if (tonumber(sub(kept, 1, 16)) or 0) <= now then
  redis.call('DEL', key)
  return false
end
return sub(kept, 17)

-- ARGV: clock offset, queues. Rename keys whose type is not the one that drivers use, so that nothing is lost and new ones
-- can be made. Reply: what they were.
local renamed = {}

local function check(name, wanted)
  local key = base .. name
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= wanted then
    redis.call('RENAME', key, base .. 'damaged:' .. integer(now) .. ':' .. name)
    renamed[#renamed + 1] = name .. ' was a ' .. kind
  end
end

check('messages', 'hash')
check('states', 'hash')
check('errors', 'hash')
check('holders', 'hash')
check('unique', 'hash')
check('fair', 'hash')
check('queues', 'set')
check('sequence', 'string')
local names = redis.call('SMEMBERS', QUEUES)
for i = 2, #ARGV do
  names[#names + 1] = ARGV[i]
end
for _, queue in ipairs(names) do
  check('due:' .. queue, 'zset')
  check('ranks:' .. queue, 'zset')
  check('leased:' .. queue, 'zset')
  check('dead:' .. queue, 'zset')
  check('wake:' .. queue, 'list')
end
local number = redis.call('GET', KEYS[1])
if (not number and redis.call('EXISTS', MESSAGES) == 1) or (number and (tonumber(number) or NUMBER_END) >= NUMBER_END) then
  redis.call('SET', KEYS[1], integer(now))
  renamed[#renamed + 1] = number and 'sequence was no number' or 'sequence begins anew'
end
return renamed

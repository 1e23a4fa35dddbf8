-- ARGV: clock offset, id, inbox, milliseconds for which the inbox is to be told when the message ends, 0 for not at all.
-- Reply: 1 if the message has ended: it is a dead letter, or not there; else 0, as for a holder: line feed, name.
local is_holder = byte(ARGV[2]) == 10
if not is_holder and (redis.call('HEXISTS', MESSAGES, ARGV[2]) == 0 or sub(redis.call('HGET', STATES, ARGV[2]) or '', 33, 33) == 'D') then
  return 1
end
if ARGV[4] == '0' then
  return 0
end
local key = base .. 'ending:' .. ARGV[2]
redis.call('SADD', key, ARGV[3])
redis.call('PEXPIRE', key, ARGV[4])
return 0

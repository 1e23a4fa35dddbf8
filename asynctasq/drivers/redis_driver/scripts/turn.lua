-- ARGV: clock offset, lease, limit, holder, number of queues, queues, number of settlements, what settle.lua reads.
-- Reply: the ids of lost leases, and the two lists that reserve.lua makes. Settling alone is limit 0, reserving alone none to settle.
local queues = tonumber(ARGV[5])
local count = tonumber(ARGV[6 + queues])
local lost = {}
if count > 0 then
  lost = settle(7 + queues, count)
end
if tonumber(ARGV[3]) == 0 then
  return { lost, {}, {} }
end
return { lost, reserve(6, queues, tonumber(ARGV[3]), ARGV[2], ARGV[4]) }

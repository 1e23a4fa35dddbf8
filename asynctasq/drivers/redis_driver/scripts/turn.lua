-- ARGV: clock offset, lease, limit, number of queues, queues, number of settlements, what settle.lua reads.
-- Reply: the ids of lost leases, and the two lists that reserve.lua makes. Settling alone is limit 0, reserving alone none to settle.
local queues = tonumber(ARGV[4])
local count = tonumber(ARGV[5 + queues])
local lost = {}
if count > 0 then
  lost = settle(6 + queues, count)
end
if tonumber(ARGV[3]) == 0 then
  return { lost, {}, {} }
end
return { lost, reserve(5, queues, tonumber(ARGV[3]), ARGV[2]) }

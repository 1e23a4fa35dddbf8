-- ARGV: clock offset, number of messages, what keyed.lua reads.
-- Reply: the new ids, pairs of ids and who holds their keys, pairs of ids and who of the batch replaced them, and 1 if the
-- last conflict has let nothing be stored.
local new = {}
local plan = store_keyed(3, tonumber(ARGV[2]), new)
return { new, plan.refused, plan.replaced, plan.failed }

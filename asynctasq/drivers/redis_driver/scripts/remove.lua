-- ARGV: clock offset, 'waiting' (scheduled, ready, expired lease) or 'dead', ids. Reply: the ids removed.
local removed, touched = {}, {}
for i = 3, #ARGV do
  local queue = remove_message(ARGV[i], ARGV[2] == 'dead')
  if queue then
    removed[#removed + 1] = ARGV[i]
    touched[queue] = true
  end
end
for queue in pairs(touched) do
  delete_if_empty(queue)
end
return removed

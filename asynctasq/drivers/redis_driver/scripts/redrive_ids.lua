-- ARGV: clock offset, ids. Reply: the ids of those that were dead letters and are ready now.
local by_line, all = {}, {}
for i = 2, #ARGV do
  local key, member, line = find_removable(ARGV[i], true)
  if key then
    append(by_line, line, member)
  end
end
for line, members in pairs(by_line) do
  local redriven = redrive_members(line, members)
  for i = 1, #redriven do
    all[#all + 1] = redriven[i]
  end
  if #redriven > 0 then
    wake(line)
  end
  delete_if_empty(line)
end
return all

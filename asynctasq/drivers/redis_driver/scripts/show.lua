-- ARGV: clock offset, ids.
-- Reply: now, then id, stored message, state or '', error or '', visible_at, holder or '' of each that is stored.
local ids = {}
for i = 2, #ARGV do
  ids[i - 1] = ARGV[i]
end
local values, states, errors, holders = fetch(MESSAGES, ids), fetch(STATES, ids), fetch(ERRORS, ids), fetch(HOLDERS, ids)
local reply = { integer(now) }
for i = 1, #ids do
  local value, state = values[i], states[i] or ''
  if value then
    local mode, visible = sub(state, 33, 33), nil
    if mode == 'D' then
      visible = string.match(state, '%z(%d+)$')
    else
      local queue = sub(value, 33, (find(value, '%z', 33) or 33) - 1)
      local place, pad = 'due:', ''
      if mode == 'L' then
        place, pad = 'leased:', PAD
      end
      visible = redis.call('ZSCORE', base .. place .. queue, sub(value, 1, 16) .. pad .. ids[i])
    end
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3] = ids[i], value, state
    reply[at + 4], reply[at + 5], reply[at + 6] = errors[i] or '', visible or '0', holders[i] or ''
  end
end
return reply

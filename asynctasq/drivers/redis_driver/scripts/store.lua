-- Store messages. They come in runs of one queue and one delay: queue, delay, count, ids, bodies.
local function store_run(queue, delay, first, count, new)
  local visible, stamp, key, last = integer(now + delay), padded(now), base .. 'due:' .. queue, first + count - 1
  local before = #new
  for start = first, last, CHUNK do
    local stop = min(start + CHUNK - 1, last)
    local existing, seen, fresh = redis.call('HMGET', MESSAGES, unpack(ARGV, start, stop)), {}, {}
    for i = start, stop do
      local id = ARGV[i]
      if not existing[i - start + 1] and not seen[id] then
        seen[id] = true
        fresh[#fresh + 1] = i
      end
    end
    if #fresh > 0 then
      local arrival = take_numbers(#fresh)
      local values, scores = {}, {}
      for k = 1, #fresh do
        local i, number = fresh[k], padded(arrival + k)
        values[2 * k - 1], values[2 * k] = ARGV[i], number .. stamp .. queue .. '\0' .. ARGV[i + count]
        scores[2 * k - 1], scores[2 * k] = visible, number .. ARGV[i]
        new[#new + 1] = ARGV[i]
      end
      -- The message last: it is not new any more once it is there, should the other key be of another type.
      redis.call('ZADD', key, unpack(scores))
      redis.call('HSET', MESSAGES, unpack(values))
    end
  end
  if #new > before then
    redis.call('SADD', QUEUES, queue)
    wake(queue)
  end
end

-- Return the new ids and the index of the next argument.
local function store(cursor, runs)
  local new = {}
  for _ = 1, runs do
    local count = tonumber(ARGV[cursor + 2])
    store_run(ARGV[cursor], ARGV[cursor + 1], cursor + 3, count, new)
    cursor = cursor + 3 + 2 * count
  end
  return new, cursor
end

-- Decides on the server what `Budget` decides in memory, in the same order and with the same words;
-- a test plays both. It is one script, so each decision is made alone, and all its keys have one
-- hash tag, so a cluster keeps them together.
--
-- KEYS    meta, settled, slots, queue, holders; for "ledger" the ledger alone
-- ARGV    what to do, the time (empty: the server's), then what is particular to it
--
-- meta    a hash without expiry, the sign that nothing was lost
-- settled a list of starts, in order: the k-th newest is an index away
-- slots   a hash: slot -> "latest holder"
-- queue   a sorted set: "slot:holder" by ticket. An ask brings the number of the slot that it would
--         get, so that it can be undone whatever became of it.
-- holders a hash: holder -> "lease name"
--
-- Times are whole microseconds, which a double holds exactly. Numbers of slots and holders need 64
-- bits and stay text.

local NEVER = 9007199254740991
local NOBODY = '0'
local META, SETTLED, SLOTS, QUEUE, HOLDERS = unpack(KEYS)
local task = ARGV[1]

local function text(number)
  return string.format('%.0f', number)
end

local function pairs_of(key)
  local flat, all = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    all[flat[i]] = flat[i + 1]
  end
  return all
end

local function time()
  if ARGV[2] ~= '' then
    return tonumber(ARGV[2])
  end
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

-- Made where it is not there: that it is new and that it was lost look the same. A key that was
-- made in a server's last moments can be lost with it, so its restarts are noted, and whether it
-- kept most of what it was told before.
if task == 'ledger' then
  local ledger, format, run, keeps_most = KEYS[1], ARGV[3], ARGV[4], ARGV[5]
  local now, made = text(time()), 0
  local there = redis.call('HMGET', ledger, 'format', 'run', 'keeps_most')
  if not there[1] then
    made = 1
    redis.call('HSET', ledger, 'format', format, 'lost', now, 'restarted', '', 'run', run, 'keeps_most', keeps_most)
  elseif there[2] ~= run then
    redis.call('HSET', ledger, 'restarted', now, 'kept_most', there[3], 'run', run, 'keeps_most', keeps_most)
  end
  return {redis.call('HGET', ledger, 'format'), made}
end

if task == 'create' then
  local lost, restarted, run, keeps_most = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  if redis.call('EXISTS', META) == 0 then
    local now = text(time())
    redis.call('DEL', SETTLED, SLOTS, QUEUE, HOLDERS)
    redis.call('HSET', META, 'time', now, 'lost', lost == 'now' and now or lost, 'restarted', restarted,
      'run', run, 'keeps_most', keeps_most, 'noted', 0, 'lost_until', 0, 'closed_until', 0, 'ticket', 0,
      'most', 0, 'longest', 0, 'shortest', 0)
  end
  return {'done', {}}
end

local meta = pairs_of(META)
if not meta.time or (task ~= 'register' and not meta.registered) then
  return {'unknown', {}}
end

local function put(field, value)
  value = type(value) == 'number' and text(value) or value
  if meta[field] ~= value then
    meta[field] = value
    redis.call('HSET', META, field, value)
  end
end

local function get(field)
  return tonumber(meta[field])
end

-- A clock that was set back stands still until it has caught up.
local now = math.max(time(), get('time'))

-- By their latest.
local function read_slots()
  local all = {}
  for slot, value in pairs(pairs_of(SLOTS)) do
    local latest, holder = string.match(value, '^(%d+) (%d+)$')
    all[#all + 1] = {slot = slot, latest = tonumber(latest), holder = holder}
  end
  table.sort(all, function(one, other) return one.latest < other.latest end)
  return all
end

local function done()
  put('time', now)
  return {'done', {now, get('noted')}}
end

if task == 'register' then
  put('registered', '1')
  return done()
end

if task == 'settle' then
  local value = redis.call('HGET', SLOTS, ARGV[3])
  -- One whose latest moment is past counts from that, which is sooner.
  if value and tonumber(string.match(value, '^%d+')) > now then
    redis.call('HDEL', SLOTS, ARGV[3])
    -- Later than the answer's head: its holder told of it after it had come.
    redis.call('RPUSH', SETTLED, text(now))
  end
  return done()
end

if task == 'cancel' then
  redis.call('HDEL', SLOTS, ARGV[3])
  return done()
end

if task == 'leave' then
  redis.call('ZREMRANGEBYSCORE', QUEUE, ARGV[3], ARGV[3])
  return done()
end

if task == 'undo' then
  redis.call('HDEL', SLOTS, ARGV[3])
  redis.call('ZREM', QUEUE, ARGV[3] .. ':' .. ARGV[4])
  return done()
end

if task == 'close' then
  put('closed_until', math.max(get('closed_until'), math.min(now + tonumber(ARGV[3]), NEVER)))
  return done()
end

if task == 'lose' then
  put('lost', now)
  put('noted', now)
  return done()
end

if task == 'reopen' then
  put('run', ARGV[3])
  put('keeps_most', ARGV[4])
  put('restarted', '')
  put('lost', '')
  put('lost_until', 0)
  put('closed_until', 0)
  return done()
end

if task == 'read' then
  local slots = {}
  for i, slot in ipairs(read_slots()) do
    slots[i] = {slot.slot, text(slot.latest), slot.holder}
  end
  return {'read', {now, get('closed_until'), get('lost_until'), get('most'), get('longest'), get('ticket')},
    redis.call('LRANGE', SETTLED, 0, -1), slots, redis.call('ZRANGE', QUEUE, 0, -1, 'WITHSCORES'),
    redis.call('HGETALL', HOLDERS)}
end

local run, keeps_most, id, holder, name = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local ticket, hold, lease, patience = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local quotas, longest, most, shortest = {}, 0, 0, nil
for i = 12, #ARGV, 2 do
  local quota = {calls = tonumber(ARGV[i]), kept = tonumber(ARGV[i + 1])}
  quotas[#quotas + 1] = quota
  longest, most = math.max(longest, quota.kept), math.max(most, quota.calls)
  shortest = (not shortest or quota.kept < shortest.kept) and quota or shortest
end
put('shortest', math.max(get('shortest'), shortest and shortest.calls or 0))

-- Another server has the key now, or the same one after a restart. It can have lost what was
-- reserved in its last moments, which is no more than the shortest window's calls; or, where it
-- does not write everything down, more than anybody knows. Calls that were lost may still be under
-- way.
if meta.run ~= run then
  local restarted = tonumber(meta.restarted) or now
  if meta.keeps_most == '1' and keeps_most == '1' then
    for i = 1, get('shortest') do
      redis.call('HSET', SLOTS, text(now + i), text(restarted + hold) .. ' ' .. NOBODY)
    end
  else
    put('lost', restarted)
  end
  put('run', run)
  put('restarted', '')
end
put('keeps_most', keeps_most)
if meta.lost ~= '' then
  put('lost_until', math.max(get('lost_until'), get('lost') + hold + longest))
end

local slots = read_slots()

-- Those who did not come when they could lose their places; who has nothing any more is forgotten.
local known, is_alive, is_anybody_dead = pairs_of(HOLDERS), {}, false
for who, value in pairs(known) do
  is_alive[who] = tonumber(string.match(value, '^%d+')) > now
  is_anybody_dead = is_anybody_dead or not is_alive[who]
end
if is_anybody_dead then
  for _, member in ipairs(redis.call('ZRANGE', QUEUE, 0, -1)) do
    if not is_alive[string.match(member, ':(%d+)$')] then
      redis.call('ZREM', QUEUE, member)
    end
  end
  local has_slots = {}
  for _, slot in ipairs(slots) do
    has_slots[slot.holder] = true
  end
  for who in pairs(known) do
    if not is_alive[who] and not has_slots[who] then
      redis.call('HDEL', HOLDERS, who)
      known[who] = nil
    end
  end
end

local function know(until_when)
  local before = known[holder]
  local its_name = before and string.match(before, '^%d+ (.*)$') or name
  redis.call('HSET', HOLDERS, holder, text(math.min(until_when, NEVER)) .. ' ' .. its_name)
end

local function first_place()
  for _, member in ipairs(redis.call('ZRANGE', QUEUE, 0, -1)) do
    if string.match(member, ':(%d+)$') == holder then
      return member
    end
  end
end

-- The k-th newest start of settled and reserved slots together: of two lists in order, the greatest
-- of min(i-th of the one, j-th of the other) for all i + j = k. The one grows with j, the other
-- shrinks: it lies where they cross.
local function newest(k)
  local function settled(i)
    return i == 0 and NEVER or tonumber(redis.call('LINDEX', SETTLED, -i) or -1)
  end
  local function reserved(j)
    return j == 0 and NEVER or slots[#slots + 1 - j].latest
  end
  local last = math.min(k, #slots)
  local from, to = 1, last + 1
  while from < to do
    local j = math.floor((from + to) / 2)
    if settled(k - j) >= reserved(j) then
      to = j
    else
      from = j + 1
    end
  end
  return math.max(from <= last and reserved(from) or -1, settled(k - from + 1))
end

-- When one more call can start, with so many others before it, and what stands in the way longest:
-- 0 a quota, 1 a loss, 2 the service.
local function free(others)
  local at, why = 0, 0
  for _, quota in ipairs(quotas) do
    local free_at = NEVER
    if quota.calls > 0 then
      local start = newest(math.max(quota.calls - others, 1))
      free_at = start < 0 and 0 or start + quota.kept
    end
    at = math.max(at, free_at)
  end
  if get('lost_until') >= at then
    at, why = get('lost_until'), 1
  end
  if get('closed_until') >= at then
    at, why = get('closed_until'), 2
  end
  return math.min(at, NEVER), why
end

local function used(quota)
  local from, to = 0, redis.call('LLEN', SETTLED)
  local all = to
  while from < to do
    local i = math.floor((from + to) / 2)
    if redis.call('LINDEX', SETTLED, i) + quota.kept > now then
      to = i
    else
      from = i + 1
    end
  end
  local count = all - from
  for _, slot in ipairs(slots) do
    count = count + (slot.latest + quota.kept > now and 1 or 0)
  end
  return count
end

local function forget()
  put('most', math.max(get('most'), most))
  put('longest', math.max(get('longest'), longest))
  local oldest = redis.call('LINDEX', SETTLED, 0)
  while oldest and oldest + get('longest') <= now do
    redis.call('LPOP', SETTLED)
    oldest = redis.call('LINDEX', SETTLED, 0)
  end
  if get('most') == 0 then
    redis.call('DEL', SETTLED)
  else
    redis.call('LTRIM', SETTLED, -get('most'), -1)
  end
  local kept = {}
  for _, slot in ipairs(slots) do
    if slot.latest + get('longest') > now then
      kept[#kept + 1] = slot
    else
      redis.call('HDEL', SLOTS, slot.slot)
    end
  end
  slots = kept
end

put('time', now)
local has_place = ticket ~= '' and redis.call('ZCOUNT', QUEUE, ticket, ticket) > 0
local ahead = has_place and redis.call('ZCOUNT', QUEUE, '-inf', '(' .. ticket) or redis.call('ZCARD', QUEUE)
local function leave()
  if has_place then
    redis.call('ZREMRANGEBYSCORE', QUEUE, ticket, ticket)
  end
end

local at, why = free(ahead)
local has_room = at <= now
for _, quota in ipairs(quotas) do
  has_room = has_room and ahead < quota.calls
end
-- Where there is room for those before it too, it takes nothing from them.
if has_room then
  forget()
  -- The caller's deadline is as long after a moment before it asked: it ends sooner than this.
  local latest = now + hold
  redis.call('HSET', SLOTS, id, text(latest) .. ' ' .. holder)
  slots[#slots + 1] = {slot = id, latest = latest, holder = holder}
  leave()
  -- Those behind it ask next.
  know(first_place() and now + lease or now)
  local reply = {now, get('noted'), id}
  for _, quota in ipairs(quotas) do
    reply[#reply + 1] = used(quota)
  end
  return {'admitted', reply}
end
if at == NEVER or (patience ~= '' and at > now + tonumber(patience)) then
  leave()
  return {'not now', {now, get('noted'), at, why}}
end
if not has_place then
  ticket = meta.ticket
  put('ticket', get('ticket') + 1)
  redis.call('ZADD', QUEUE, ticket, id .. ':' .. holder)
end
-- It asks for the first of its places only, and is not heard of before that one can go on.
local first = first_place()
if first and redis.call('ZSCORE', QUEUE, first) == ticket then
  know(math.max(at, now) + lease)
end
-- What can only be known here: somebody else's call may be answered, somebody else leave, or open the
-- key.
local may_be_sooner = why ~= 0 and 1 or 0
for _, member in ipairs(ahead > 0 and redis.call('ZRANGE', QUEUE, 0, ahead - 1) or {}) do
  may_be_sooner = string.match(member, ':(%d+)$') ~= holder and 1 or may_be_sooner
end
for _, slot in ipairs(slots) do
  if slot.holder ~= holder and slot.holder ~= NOBODY and slot.latest > now then
    may_be_sooner = 1
  end
end
return {'wait', {now, get('noted'), tonumber(ticket), ahead, at, why, may_be_sooner}}

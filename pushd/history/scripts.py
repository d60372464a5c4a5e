"""
What is done in Redis, whole or not at all: a Lua script for each operation.

All keys begin with the same ``{prefix}:``, so that they are in one slot of a cluster.

========================  =======  =================================================
``state``                 hash     ``epoch``; when it has ``begun`` (s); ``seq`` of the
                                   newest event; ``bytes`` of the log; ``checked``, written
                                   to see whether it can be
``log``                   stream   the newest drafts of all topics, which every node
                                   follows: ``<seq>-0`` for the seq of a draft's last
                                   event, ``<seq>-1`` for the beginning of an epoch
``events:TOPIC``          stream   the events of a topic, ``<seq>-0``
``topic:TOPIC``           hash     ``seq`` of its last event; ``floor``, the seq of the
                                   last one that is gone; ``bytes`` of those that are
                                   there; ``kind`` and ``document`` of a document topic
``lease:TOPIC``           string   who fills a document topic: its node, a space, ...
========================  =======  =================================================

A kind is ``j`` (JSON) or ``t`` (text); an event's has ``:`` and its name behind it, if it
has one. Redis 6.2 is the oldest that will do.

A script that is refused for want of memory or disk is refused at its first write, before
anything is done. What a user may not do is found out before anything is appended.
"""

from __future__ import annotations

from pushd.redis.client import Script

LOG_EVENTS = 10_000
"""How many drafts the log has room for: what a node may miss and still follow."""

LOG_BYTES = 67_108_864
"""How much they may weigh."""

LOST = b"epoch"
"""What is answered to who speaks of another epoch."""

UNHELD = b"lease"
"""What is answered to who fills a topic without its lease."""

OUTRUN = b"after"
"""What is answered to who goes on from a change that is not the last."""

_PRELUDE = """
-- So many of what is too old or too much go at a time.
local STEPS = 256

local function id(seq)
  return string.format('%.0f-0', seq)
end

local function seq_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

local function is_lost(state, epoch)
  return redis.call('HGET', state, 'epoch') ~= epoch
end

-- What is known of a topic's events: the floor, and their bytes.
local function known(topic, events)
  local seq, floor, bytes = unpack(redis.call('HMGET', topic, 'seq', 'floor', 'bytes'))
  if redis.call('EXISTS', events) == 0 then
    return tonumber(seq or 0), 0
  end
  return tonumber(floor or 0), tonumber(bytes or 0)
end

-- Which of a topic's oldest events are to go: how many, the new floor, the bytes left.
local function surplus(events, floor, bytes, keep_events, keep_bytes, before)
  local count, gone = redis.call('XLEN', events), 0
  while gone < math.min(count, STEPS) do
    local oldest = redis.call('XRANGE', events, id(floor + 1), '+', 'COUNT', 1)[1]
    local fields = oldest[2]
    local is_young = tonumber(fields[4]) >= before
    if is_young and count - gone <= keep_events and bytes <= keep_bytes then
      break
    end
    gone, floor, bytes = gone + 1, seq_of(oldest), bytes - #fields[2]
  end
  return gone, floor, bytes
end

local function weight(entry)
  local fields = entry[2]
  return #fields[12] + #fields[14] + #fields[16] + 100
end
"""

APPEND = Script(
    _PRELUDE
    + """
local state, log, topic, events, lease = unpack(KEYS)
local epoch, nonce, name, now, kind, document, lengths, payloads, fence = unpack(ARGV, 1, 9)
local after, keep_events, keep_bytes, keep_ms, document_ms = unpack(ARGV, 10, 14)
local log_events, log_bytes = tonumber(ARGV[15]), tonumber(ARGV[16])

if is_lost(state, epoch) then
  return 'epoch'
end
if fence ~= '' and kind ~= '' then
  local holder = redis.call('GET', lease)
  if not holder or string.sub(holder, 1, #fence + 1) ~= fence .. ' ' then
    return 'lease'
  end
end
local was, seq_of_last = unpack(redis.call('HMGET', topic, 'kind', 'seq'))
if after ~= '' and was and seq_of_last ~= after then
  return 'after'
end

-- Two words are an event: its kind, its data.
local words, at = {}, 1
for length in string.gmatch(lengths, '%d+') do
  words[#words + 1] = string.sub(payloads, at, at + length - 1)
  at = at + length
end

-- The topic.
local floor, bytes = known(topic, events)
local last = redis.call('HINCRBY', state, 'seq', #words / 2)
local seq = last - #words / 2
if (kind ~= '') ~= (was ~= false) then
  -- It begins anew, and does not vouch for its past: another node may have forgotten a
  -- document whose changes some client has, or there were messages under this name.
  redis.call('DEL', events)
  floor, bytes = seq, 0
end
for n = 1, #words, 2 do
  seq = seq + 1
  redis.call('XADD', events, id(seq), words[n], words[n + 1], 'at', now)
  bytes = bytes + #words[n + 1]
end
local limit = tonumber(keep_bytes)
if kind ~= '' then
  -- Changes that outweigh their document are never asked for.
  limit = #document
  redis.call('HSET', topic, 'kind', kind, 'document', document)
else
  redis.call('HDEL', topic, 'kind', 'document')
end
local gone
gone, floor, bytes = surplus(
  events, floor, bytes, tonumber(keep_events), limit, tonumber(now) - keep_ms / 1000)
if gone > 0 then
  redis.call('XTRIM', events, 'MAXLEN', redis.call('XLEN', events) - gone)
end
redis.call('HSET', topic, 'seq', last, 'floor', floor, 'bytes', bytes)
redis.call('PEXPIRE', events, keep_ms)
if kind ~= '' then
  redis.call('PEXPIRE', topic, document_ms)
else
  -- Its floor is what tells of messages that are gone.
  redis.call('PERSIST', topic)
end

-- The log.
local fields = {'epoch', epoch, 'nonce', nonce, 'topic', name, 'at', now,
  'kind', kind, 'document', document, 'lengths', lengths, 'payloads', payloads}
redis.call('XADD', log, id(last), unpack(fields))
local heavy = redis.call('HINCRBY', state, 'bytes', weight({id(last), fields}))
local count = redis.call('XLEN', log)
local left, from = count, '-'
while left > 1 and count - left < STEPS and (left > log_events or heavy > log_bytes) do
  local oldest = redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
  left, heavy, from = left - 1, heavy - weight(oldest), id(seq_of(oldest) + 1)
end
if left < count then
  redis.call('XTRIM', log, 'MAXLEN', left)
  redis.call('HSET', state, 'bytes', heavy)
end
return last
"""
)
"""
Record a draft.

KEYS: state, log, topic, events, lease. ARGV: epoch, nonce, topic, now (s), kind and document
(both empty for a message topic), the payloads (kind, data, kind, data, ..., as lengths and all
in one), who must hold the lease (empty: nobody), the seq of the change that must be the
document's last (empty: any), keep_events, keep_bytes, for how long events and documents are kept
(ms), and how many drafts and bytes the log has room for.
Gives the seq of the last event, :data:`LOST`, :data:`UNHELD` or :data:`OUTRUN`.
"""

CHECK = Script(
    _PRELUDE
    + """
local state, log, nothing = unpack(KEYS)
local epoch, begun, server, told, nonce, another, now = unpack(ARGV)

-- What is not permitted is to show here, and not in the middle of an append.
redis.call('XADD', nothing, 'NOMKSTREAM', '*', '', '')
redis.call('XTRIM', nothing, 'MAXLEN', 1)
redis.call('XLEN', nothing)
redis.call('XRANGE', nothing, '-', '+')
redis.call('XREVRANGE', nothing, '+', '-')
redis.call('XREAD', 'STREAMS', nothing, 0)
redis.call('HDEL', nothing, '')
redis.call('HMGET', nothing, '')
redis.call('HEXISTS', nothing, '')
redis.call('SET', nothing, '', 'XX')
redis.call('GET', nothing)
redis.call('EXISTS', nothing)
redis.call('DEL', nothing)
redis.call('PEXPIRE', nothing, 1)
redis.call('PTTL', nothing)
redis.call('PERSIST', nothing)
redis.call('HSET', state, 'checked', now)
redis.call('HINCRBY', state, 'bytes', 0)

-- It has another id after each restart, and when a replica has taken over.
local id_of_server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
local found = redis.call('HGET', state, 'epoch')
local since = tonumber(redis.call('HGET', state, 'begun') or 0)
local is_whole = found and redis.call('XLEN', log) > 0
if is_whole and found == epoch then
  local entry = redis.call('XRANGE', log, told, told)[1]
  if entry then
    is_whole = entry[2][4] == nonce
  else
    -- The log does not reach back so far any more, or Redis has lost what we saw in it.
    -- If it may have done so before, nothing is left to tell.
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    is_whole = oldest and seq_of(oldest) > seq_of({told}) and id_of_server == server
  end
elseif since < tonumber(begun) then
  -- It fell back to before our epoch: to one that was over, which had given out more seqs.
  is_whole = false
end
if not is_whole then
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local seq = tonumber(redis.call('HGET', state, 'seq') or (newest and seq_of(newest)) or 0)
  -- Later than those that are over, also if clocks differ.
  since = math.max(tonumber(now), since + 0.001, begun + 0.001)
  redis.call('HSET', state, 'epoch', another, 'begun', since, 'seq', seq, 'bytes', 100)
  redis.call('DEL', log)
  redis.call('XADD', log, string.format('%.0f-1', seq), 'epoch', another, 'nonce', another,
    'topic', '', 'at', now, 'kind', '', 'document', '', 'lengths', '', 'payloads', '')
end
local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
return {redis.call('HGET', state, 'epoch'), redis.call('HGET', state, 'begun') or '0',
  id_of_server, newest[1], newest[2][4]}
"""
)
"""
See whether Redis still has what we were told, and whether anything can be recorded.
If it has lost something, or is empty, another epoch begins: the first node that sees it
gives its name.

KEYS: state, log, one that is not there. ARGV: the epoch that we know (empty: none), when the
newest that we knew began (s), the server's id when we looked last, the id and the nonce of the
entry of the log that we were told last, the name for another epoch, now (s).
Gives the epoch, when it began, the server's id, and the id and the nonce of the newest entry of
the log.
"""

LOAD = Script(
    _PRELUDE
    + """
-- The newest events past `floor`: so many, so many bytes. Where they begin is the new floor.
local function newest(events, floor, most, room)
  local found, upto = {}, '+'
  while true do
    local entry = redis.call('XREVRANGE', events, upto, id(floor + 1), 'COUNT', 1)[1]
    if not entry then
      return found, floor
    end
    room = room - #entry[2][2]
    if #found > 0 and (#found == most or room < 0) then
      return found, seq_of(entry)
    end
    found[#found + 1] = entry
    upto = id(seq_of(entry) - 1)
  end
end

local state, topic, events = unpack(KEYS)
local epoch, keep_events, keep_bytes, before, most, room, document_ms = unpack(ARGV)

if is_lost(state, epoch) then
  return 'epoch'
end
local floor, bytes = known(topic, events)
local kind, document = unpack(redis.call('HMGET', topic, 'kind', 'document'))
local _
_, floor = surplus(events, floor, bytes, tonumber(keep_events),
  document and #document or tonumber(keep_bytes), tonumber(before))
if document then
  -- It is in use. Where nothing can be written, it only goes the sooner.
  redis.pcall('PEXPIRE', topic, document_ms)
end
local found
if document then
  found, floor = newest(events, floor, math.huge, math.huge)
else
  found, floor = newest(events, floor, tonumber(most), tonumber(room))
end
return {tonumber(redis.call('HGET', state, 'seq')), floor, kind, document, found}
"""
)
"""
What is held of a topic.

KEYS: state, topic, events. ARGV: epoch, keep_events, keep_bytes, the time before which events
are too old, how many messages and bytes at the most, for how long documents are kept (ms).
Gives the seq of the newest event of all topics, the floor, kind and document, and the events,
newest first; or :data:`LOST`.
"""

READ = Script(
    _PRELUDE
    + """
local epoch, after, upto, size, keep_events, keep_bytes, before = unpack(ARGV)

if is_lost(KEYS[1], epoch) then
  return 'epoch'
end
local reply = {}
for k = 2, #KEYS, 2 do
  local floor, bytes = known(KEYS[k], KEYS[k + 1])
  local _
  _, floor = surplus(KEYS[k + 1], floor, bytes, tonumber(keep_events), tonumber(keep_bytes),
    tonumber(before))
  local from, room = math.max(tonumber(after), floor) + 1, tonumber(size)
  local found, is_more = {}, 0
  repeat
    local some = redis.call('XRANGE', KEYS[k + 1], id(from), id(upto), 'COUNT', 16)
    for n, entry in ipairs(some) do
      if room <= 0 then
        is_more = 1
        break
      end
      found[#found + 1] = entry
      room = room - #entry[2][2]
      from = seq_of(entry) + 1
    end
  until is_more == 1 or #some < 16
  reply[#reply + 1] = {floor, is_more, found}
end
return reply
"""
)
"""
Messages of some topics.

KEYS: state, and for each topic its topic and events. ARGV: epoch, after which seq, up to which,
how many bytes of each topic, keep_events, keep_bytes, the time before which events are too old.
Gives for each topic its floor, whether there is more, and its events; or :data:`LOST`.
"""

FORGET = Script(
    _PRELUDE
    + """
local topic, events, lease = unpack(KEYS)
local holder = redis.call('GET', lease)
if not holder or string.sub(holder, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
  return redis.call('DEL', topic, events)
end
return 0
"""
)
"""
Delete a topic, unless another node fills it.

KEYS: topic, events, lease. ARGV: our node. Gives how many keys are gone.
"""

TOUCH = Script("""
if redis.call('HEXISTS', KEYS[1], 'document') == 0 then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
""")
"""Let a document live on. KEYS: topic. ARGV: for how long (ms). Gives 0 if there is none."""

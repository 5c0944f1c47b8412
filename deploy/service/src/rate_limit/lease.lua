-- Lends tokens of a bucket to a process. One key, so it runs on a Redis Cluster as well.
-- KEYS: the bucket. ARGV: burst, tokens a millisecond, tokens needed, tokens wanted, tokens given back, tokens owed, milliseconds of an
-- epoch, what the process knows the bucket had (-1: nothing) and when, by this clock; then, of tokens that were lent and are used or given back, pairs of the epoch they were lent in and their number.
-- The time is that of Redis: no instance's clock counts.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local burst, rate, needed, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local back, owed, span = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local known, known_at = tonumber(ARGV[8]), tonumber(ARGV[9])
local epoch = math.floor(now / span)
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at', 'epoch', 'lent', 'before', 'born')
local tokens, at = tonumber(bucket[1]) or burst, tonumber(bucket[2]) or now
local lent, before = tonumber(bucket[4]) or 0, tonumber(bucket[5]) or 0
-- One of a version without `born` is older than what anybody knows.
local born = tonumber(bucket[6]) or (bucket[1] and 0 or now)
-- What was lent may still be unused: in this epoch, and in the one before.
local passed = epoch - (tonumber(bucket[3]) or epoch)
if passed == 1 then before, lent = lent, 0
elseif passed > 1 then before, lent = 0, 0
elseif passed < 0 then before, lent = before + lent, 0 end
for pair = 10, #ARGV, 2 do
    local lent_in, settled = tonumber(ARGV[pair]), tonumber(ARGV[pair + 1])
    if lent_in == epoch then lent = math.max(lent - settled, 0)
    elseif lent_in == epoch - 1 then before = math.max(before - settled, 0) end
end
-- Together with what is lent and may be unused never more than the burst.
tokens = math.min(tokens + back + math.max(now - at, 0) * rate, math.max(burst - lent - before, 0))
-- What is known is older than the bucket: that was lost, or it was full, and then this is as much as the burst.
if known >= 0 and known_at < born then tokens = math.min(tokens, known + math.max(now - known_at, 0) * rate + back) end
tokens = math.max(tokens - owed, 0)
local whole = math.floor(tokens)
local lease = math.min(whole, math.max(needed, math.min(wanted, math.floor(whole / 8))))
tokens, lent = tokens - lease, lent + lease
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now, 'epoch', epoch, 'lent', lent, 'before', before, 'born', born)
local day = 86400000
local function time_of(amount, most)
    if amount <= 0 then return 0 end
    return math.ceil(math.min(amount / rate, most))
end
-- Then it is as a new one would be: a burst of many days takes as many, within a hundred years.
redis.call('PEXPIRE', KEYS[1], time_of(burst - tokens, 36500 * day) + 2 * span)
local wait = 0
if lease < needed then wait = time_of(1 - (tokens - math.floor(tokens)), day) end
return {lease, math.floor(tokens), wait, epoch, now}

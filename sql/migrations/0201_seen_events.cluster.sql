-- As 0121, of this shard.
CREATE VIEW IF NOT EXISTS tallyhouse_seen.events
DEFINER = definer SQL SECURITY DEFINER
AS SELECT
    project_id,
    event_id,
    event_type,
    ts,
    value,
    user_id,
    anonymous_id,
    user_hash,
    session_id,
    country,
    device,
    os,
    browser,
    locale,
    page,
    ip,
    props,
    num_props,
    original_ts,
    received_at
FROM tallyhouse.events

-- Raw events. A copy of an event that `rollups backfill` replaced is seen until both are merged.
CREATE VIEW IF NOT EXISTS tallyhouse_views.events {{on_cluster}}
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

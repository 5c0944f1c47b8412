-- Ids of people whose data is being erased, for as long as it is: statements name a job, so that no id stands in the text of one, which
-- ClickHouse keeps with its mutations. A job removes its rows at the end; the TTL is for one that was given up.
CREATE TABLE IF NOT EXISTS tallyhouse.privacy_subjects {{on_cluster}}
(
    job          String,
    user_id      String COMMENT 'empty when the row is about an anonymous id',
    anonymous_id String COMMENT 'empty when the row is about a user',
    added_at     DateTime DEFAULT now()
)
ENGINE = {{replicated}}MergeTree
ORDER BY job
TTL added_at + toIntervalDay(30) DELETE
SETTINGS old_parts_lifetime = 1

-- Registered metrics move into the control plane, each version as it was. What is there already stays, so this can be run again; nothing writes to
-- `metric_definitions` any more.
INSERT INTO tallyhouse.control (kind, project_id, name, version, document, claim, created_by, created_at)
SELECT 'metric', project_id, name, version, document, claim, created_by, created_at
FROM tallyhouse.metric_definitions
WHERE (project_id, name, version) GLOBAL NOT IN (SELECT project_id, name, version FROM tallyhouse.control WHERE kind = 'metric')

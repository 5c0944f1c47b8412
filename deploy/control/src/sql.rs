//! The statements of the control plane. Every value is a parameter that ClickHouse binds by type.

/// Whether anything changed: versions are only ever added.
pub(crate) const MARK: &str =
    "SELECT count() AS versions, toUnixTimestamp64Milli(max(created_at)) AS newest_ms FROM control";

/// The versions in force of what was written since an instant.
pub(crate) const IN_FORCE_SINCE: &str = "SELECT toString(kind) AS kind, toString(project_id) AS project_id, name, version, \
     document, toString(created_by) AS created_by, toUnixTimestamp64Milli(created_at) AS created_ms FROM control \
     WHERE created_at >= fromUnixTimestamp64Milli({since:Int64}) \
     ORDER BY kind, project_id, name, version DESC LIMIT 1 BY kind, project_id, name";

/// The version in force of one name, 0 when there is none.
pub(crate) const IN_FORCE: &str = "SELECT max(version) FROM control \
     WHERE kind = {kind:String} AND project_id = {project:String} AND name = {name:String}";

/// All versions of one name, the newest first.
pub(crate) const VERSIONS: &str = "SELECT toString(kind) AS kind, toString(project_id) AS project_id, name, version, \
     document, toString(created_by) AS created_by, toUnixTimestamp64Milli(created_at) AS created_ms FROM control \
     WHERE kind = {kind:String} AND project_id = {project:String} AND name = {name:String} \
     ORDER BY version DESC LIMIT {most:UInt32}";

/// Writes a version, unless another one is in force by now: a writer that was held up for longer than tokens are remembered would
/// write it twice.
pub(crate) const CREATE: &str = "INSERT INTO control \
     (kind, project_id, name, version, document, claim, created_by, created_at) \
     SELECT {kind:String}, {project:String}, {name:String}, {version:UInt32}, {document:String}, {claim:String}, \
     {created_by:String}, now64(3) WHERE {version:UInt32} = 1 + (SELECT max(version) FROM control \
     WHERE kind = {kind:String} AND project_id = {project:String} AND name = {name:String})";

/// Who wrote a version: of two at once, the one that ClickHouse kept.
pub(crate) const WINNER: &str = "SELECT claim FROM control \
     WHERE kind = {kind:String} AND project_id = {project:String} AND name = {name:String} \
     AND version = {version:UInt32} ORDER BY created_at, claim LIMIT 1";

/// Writes when keys were used.
pub(crate) const USED: &str = "INSERT INTO key_use (project_id, key_id, used_at) \
     SELECT use.1, use.2, fromUnixTimestamp64Milli(use.3) \
     FROM (SELECT arrayJoin(arrayZip({projects:Array(String)}, {keys:Array(String)}, {used:Array(Int64)})) AS use)";

/// When keys were used, by any process: of a project, or all.
pub(crate) const LAST_USED: &str = "SELECT key_id, toUnixTimestamp64Milli(max(used_at)) AS used_ms FROM key_use \
     WHERE ({all:UInt8} OR project_id = {project:String}) GROUP BY key_id";

/// Writes hot questions.
pub(crate) const ASKED: &str = "INSERT INTO hot_questions (project_id, question, hits, asked_at) \
     SELECT asked.1, asked.2, asked.3, now64(3) \
     FROM (SELECT arrayJoin(arrayZip({projects:Array(String)}, {questions:Array(String)}, {hits:Array(UInt32)})) AS asked)";

/// The hottest of each project; those of the last two days, so that what is no longer looked at costs nothing.
pub(crate) const HOTTEST: &str = "SELECT toString(project_id) AS project_id, question, hits FROM \
     (SELECT project_id, question, hits FROM hot_questions FINAL WHERE asked_at > now64(3) - INTERVAL 2 DAY \
     ORDER BY hits DESC LIMIT {of_project:UInt32} BY project_id) ORDER BY hits DESC, project_id, question LIMIT {all:UInt32}";

/// Writes a line of the audit log.
pub(crate) const AUDIT: &str = "INSERT INTO audit (at, id, project_id, actor, action, object, result, details) \
     SELECT now64(3), {id:String}, {project:String}, {actor:String}, {action:String}, {object:String}, {result:String}, \
     {details:String}";

/// Lines of the audit log, the newest first: a ULID begins with its time.
pub(crate) const AUDIT_LINES: &str = "SELECT id, toUnixTimestamp64Milli(at) AS at_ms, toString(project_id) AS project_id, \
     actor, toString(action) AS action, object, toString(result) AS result, details FROM audit \
     WHERE ({all:UInt8} OR project_id = {project:String}) AND id < {before:String} \
     ORDER BY id DESC LIMIT {limit:UInt32}";

//! The arguments and variables of each program of a fleet.

use std::path::PathBuf;

use super::{Fleet, GROUP, Programs, TOPIC};
use crate::brokers::Brokers;
use crate::chaos::plan::Target;
use crate::credentials;
use crate::daemon::Launch;
use crate::redis;

const PARTITIONS: usize = 6;
/// Same on every instance; the one of development mode.
const USER_HASH_KEY: &str = "000102030405060708090a0b0c0d0e0f";

fn name_of(target: Target) -> String {
    target.to_string().replace(' ', "-")
}

impl Fleet {
    pub(super) fn data_of(&self, target: Target) -> PathBuf {
        self.scratch.path().join(name_of(target))
    }

    fn launch(&self, target: Target, program: PathBuf, arguments: &[&str], env: &[(&str, &str)]) -> Launch {
        let name = name_of(target);
        let mut env: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let data = self.data_of(target).display().to_string();
        env.extend(self.settings.iter().cloned());
        env.extend([("TALLYHOUSE_DATA".to_owned(), data), ("TALLYHOUSE_DEV".to_owned(), "1".to_owned())]);
        Launch {
            log: self.scratch.path().join(format!("{name}.log")),
            name,
            program,
            arguments: arguments.iter().map(Into::into).collect(),
            without: ["CLICKHOUSE_URL", "KAFKA_BROKERS", "REDIS_URL", "INGEST_ROLE"]
                .into_iter()
                .filter(|unset| env.iter().all(|(name, _)| name != unset))
                .collect(),
            env,
        }
    }

    pub(super) fn redis(&self, address: &str) -> Launch {
        redis::launch(port_of(address), self.scratch.path())
    }

    pub(super) fn store(&self, programs: &Programs, http: &str) -> Launch {
        let env = [("CLICKHOUSE_HTTP_PORT", port_of(http))];
        self.launch(Target::Store, programs.tallyhouse.clone(), &["store"], &env)
    }

    pub(super) fn ingest(&self, programs: &Programs, target: Target, [public, admin, redis]: [&str; 3]) -> Launch {
        let (partitions, redis) = (PARTITIONS.to_string(), format!("redis://{redis}"));
        let bootstrap = self.bootstrap();
        let replication = self.brokers.as_ref().map_or(1, Brokers::replication).to_string();
        let mut env = vec![
            ("INGEST_ADDR", public),
            ("INGEST_ADMIN_ADDR", admin),
            ("REDIS_URL", &redis),
            ("CLICKHOUSE_URL", &self.clickhouse.url),
            ("CLICKHOUSE_USER", &self.clickhouse.user),
            ("CLICKHOUSE_PASSWORD", &self.clickhouse.password),
            ("USER_HASH_KEY", USER_HASH_KEY),
        ];
        if let Some(bootstrap) = &bootstrap {
            let role = if let Target::Gateway(_) = target { "gateway" } else { "consumer" };
            env.extend([
                ("INGEST_ROLE", role),
                ("KAFKA_BROKERS", bootstrap.as_str()),
                ("KAFKA_TOPIC", TOPIC),
                ("KAFKA_GROUP", GROUP),
                ("KAFKA_PARTITIONS", &partitions),
                ("KAFKA_REPLICATION", &replication),
            ]);
        }
        self.launch(target, programs.ingest.clone(), &[], &env)
    }

    pub(super) fn query_api(&self, programs: &Programs, target: Target, [public, admin, redis]: [&str; 3]) -> Launch {
        let redis = format!("redis://{redis}");
        let env = [
            ("QUERY_ADDR", public),
            ("QUERY_ADMIN_ADDR", admin),
            ("REDIS_URL", &redis),
            ("CLICKHOUSE_URL", &self.clickhouse.url),
            ("CLICKHOUSE_USER", "reader"),
            ("CLICKHOUSE_PASSWORD", credentials::PASSWORD),
            ("CLICKHOUSE_WRITER_USER", &self.clickhouse.user),
            ("CLICKHOUSE_WRITER_PASSWORD", &self.clickhouse.password),
            ("CLICKHOUSE_ANALYST_PASSWORD", credentials::PASSWORD),
            ("USER_HASH_KEY", USER_HASH_KEY),
        ];
        self.launch(target, programs.query_api.clone(), &[], &env)
    }
}

fn port_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(_, port)| port)
}

//! A cluster of two shards: two real engines, joined by `remote_servers`.

mod accounts;
mod erasures;

use std::process::{Command, Output};

use tallyhouse_sql::migrations::Topology;
use tallyhouse_sql::runner;
use tallyhouse_testkit::{self as support, CLUSTER, ShardEngines, ask, new_project, recorded_number};

/// A command with the variables of a cluster's writer.
fn tallyhouse(cluster: &ShardEngines, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.args(arguments).env("CLICKHOUSE_URL", cluster.url()).env("CLICKHOUSE_PASSWORD", "dev");
    command.output().unwrap()
}

#[tokio::test]
async fn migrate_up_makes_each_server_a_shard_and_questions_reach_all() {
    let mut cluster = ShardEngines::start(2).await;
    let nameless = tallyhouse(&cluster, &["migrate", "up"]);
    let told = String::from_utf8_lossy(&nameless.stderr).into_owned();
    assert!(!nameless.status.success() && told.contains("CLICKHOUSE_CLUSTER: is not set"), "{told}");
    let wrong = tallyhouse(&cluster, &["migrate", "up", "--cluster", "other"]);
    let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(told.contains("`other` has 0 shards in remote_servers, and CLICKHOUSE_URL lists 2"), "{told}");

    // The first was a single server.
    runner::up(&cluster.writer(1), &Topology::Single).await.unwrap();
    // One is away: the other one is made, and the command fails.
    cluster.kill(2).await;
    let up = ["migrate", "up", "--cluster", CLUSTER];
    let half = tallyhouse(&cluster, &up);
    let told = String::from_utf8_lossy(&half.stderr).into_owned();
    assert!(!half.status.success() && told.contains("does not answer, and is as it was"), "{told}");
    assert_eq!(recorded_number(&cluster.writer(1)).await, Some(1));
    cluster.bring_back(2).await;
    assert_eq!(recorded_number(&cluster.writer(2)).await, None);
    let whole = tallyhouse(&cluster, &up);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    assert_eq!(recorded_number(&cluster.writer(2)).await, Some(2));
    let check = tallyhouse(&cluster, &["migrate", "check", "--cluster", CLUSTER]);
    let printed = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && printed.contains("shard 2, http://"), "{printed}");

    is_not_backed_up_by_one_server(&cluster);

    let views = "SELECT groupArray((name, engine, as_select)) FROM \
        (SELECT name, engine, as_select FROM system.tables WHERE database = 'tallyhouse_views' ORDER BY name)";
    let [first, second] = [1, 2].map(|number| cluster.writer(number));
    assert_eq!(
        ask(&first, views).await.unwrap(),
        ask(&second, views).await.unwrap(),
        "views of both are of all shards"
    );

    // A row on each shard, read through either.
    let project = new_project();
    for number in [1, 2] {
        support::insert_events(&cluster.writer(number), &project, support::ten_days_ago(), 2).await;
    }
    for number in [1, 2] {
        let count =
            format!("SELECT sum(events) FROM tallyhouse_all.rollup_1h WHERE project_id = '{project}' AND dim_set = ''");
        assert_eq!(ask(&cluster.writer(number), &count).await.unwrap(), "12");
    }
    let service = support::query_service::Service::start(cluster.readers(), &[&project], None).await;
    let answer = service.get(&project, &support::a_day(support::ten_days_ago())).await;
    assert_eq!(answer.body["data"][0]["value"], 12, "{answer:?}");
    service.stop().await;
}

/// Also by an address that leads to any of them.
fn is_not_backed_up_by_one_server(cluster: &ShardEngines) {
    let folder = support::Folder::create();
    for url in [cluster.url(), cluster.writer(2).url] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
        command.args(["backup", "create"]).env("CLICKHOUSE_URL", url).env("CLICKHOUSE_PASSWORD", "dev");
        command.env("TALLYHOUSE_DATA", folder.path()).env("BACKUP_CLICKHOUSE", "disk:backups");
        let refused = command.output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("of a cluster of 2 shards"), "{told}");
    }
}

#[tokio::test]
async fn a_list_in_another_order_is_refused() {
    let cluster = support::two_shards().await;
    let swapped: Vec<_> = cluster.url().split(',').rev().map(str::to_owned).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyhouse"));
    command.args(["migrate", "up", "--cluster", CLUSTER]).env("CLICKHOUSE_URL", swapped.join(","));
    let output = command.env("CLICKHOUSE_PASSWORD", "dev").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("CLICKHOUSE_URL lists it as shard 1"), "{told}");
}

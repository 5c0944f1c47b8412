//! The scripts that make Redis Cluster of six pods, run.

use std::process::Command;

use tallyhouse_testkit::Folder;

use crate::tools::{output, root, skip};

#[test]
fn six_nodes_of_redis_become_one_cluster_once_and_tell_names() {
    let test = "six_nodes_of_redis_become_one_cluster_once_and_tell_names";
    if !rustix::process::geteuid().is_root() {
        return skip(test, "only root may give names to addresses for a process of its own");
    }
    let scratch = Folder::create();
    // Addresses that no other test process listens on, so that the ports may be those of the files.
    let id = std::process::id();
    let network = format!("127.{}.{}", 1 + id / 250 % 250, 1 + id % 250);
    let script = root().join("deploy/tallyhouse/tests/deployments/redis_cluster.sh");
    let mut command = Command::new("timeout");
    command.args(["60", "unshare", "--mount", "bash"]).arg(script).arg(root().join("deploy/k8s/stores/redis"));
    let printed = output(command.arg(scratch.path()).arg(&network));
    assert_eq!(printed.matches("the cluster is there already").count(), 1, "{printed}");
    assert!(printed.lines().any(|line| line == "OK"), "{printed}");
    let nodes: Vec<&str> = printed.lines().filter(|line| line.contains("@16379,redis-")).collect();
    assert_eq!(nodes.iter().filter(|line| line.contains("master")).count(), 3, "{printed}");
    assert_eq!(nodes.iter().filter(|line| line.contains("slave")).count(), 3, "{printed}");
}

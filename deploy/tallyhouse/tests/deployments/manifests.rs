//! The overlays beside their schemas and beside what the programs are.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_yaml_ng::Value;
use tallyhouse_service::env::{Env as _, NAMES, ProcessEnv};
use tallyhouse_testkit::Folder;

use crate::manifest::{Manifests, SECRETS, bytes, list, name, schemas_or_skip, selects};
use crate::programs::Program;
use crate::tools::{read, root, skip, tool_or_skip};

#[test]
fn every_object_is_as_its_schema_says() {
    let test = "every_object_is_as_its_schema_says";
    let Some(tool) = tool_or_skip(test, "kubeconform") else { return };
    let Some(schemas) = schemas_or_skip(test) else { return };
    for manifests in Manifests::all(test) {
        let of_kubernetes =
            "{{.NormalizedKubernetesVersion}}-local{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json";
        let ours = root().join("deploy/k8s/schemas/{{.ResourceKind}}{{.KindSuffix}}.json");
        let mut child = Command::new(&tool)
            .args(["-strict", "-summary", "-kubernetes-version", "1.33.0", "-schema-location"])
            .arg(schemas.join(of_kubernetes))
            .arg("-schema-location")
            .arg(ours)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(manifests.text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {printed}", manifests.overlay);
        let all = format!("Valid: {}, Invalid: 0, Errors: 0, Skipped: 0", manifests.objects.len());
        assert!(printed.contains(&all), "{}: {printed}", manifests.overlay);
    }
}

#[test]
fn each_container_sets_variables_that_its_program_reads_and_is_started_with() {
    let test = "each_container_sets_variables_that_its_program_reads_and_is_started_with";
    // A list of servers, until clusters are known.
    let knows_clusters = NAMES.contains(&"CLICKHOUSE_CLUSTER");
    for manifests in Manifests::all(test) {
        for (workload, program) in manifests.ours() {
            let scratch = Folder::create();
            let mut env = workload.env();
            if !knows_clusters && env.remove("CLICKHOUSE_CLUSTER").is_some() {
                skip(&format!("{test} ({})", workload.title()), "this version knows no clusters");
                env.insert("CLICKHOUSE_URL".to_owned(), "http://clickhouse:8123".to_owned());
            }
            for (name, value) in &mut env {
                assert!(program.reads(name), "{}: {program:?} does not read {name}", workload.title());
                let Some(file) = value.strip_prefix(SECRETS) else {
                    assert!(!name.ends_with("_FILE"), "{}: {name}", workload.title());
                    continue;
                };
                assert!(workload.secret_files().contains(value), "{}: {value} is not mounted", workload.title());
                let secret = match file {
                    "redis-url" => "redis+cluster://:secret@redis-0.redis:6379,redis-1.redis:6379",
                    _ => "000102030405060708090a0b0c0d0e0f",
                };
                let path = scratch.path().join(file);
                std::fs::write(&path, secret).unwrap();
                *value = path.display().to_string();
            }
            let accepted = match program {
                Program::Ingest => tallyhouse_ingest::config::Config::from_env(&env).map(drop),
                Program::QueryApi => tallyhouse_query_api::Config::from_env(&env).map(drop),
                Program::Tallyhouse | Program::Loadtest => Ok(()),
            };
            accepted.unwrap_or_else(|error| panic!("{}: {error}", workload.title()));
            for file in workload.secret_files() {
                let is_read = workload.env().values().any(|value| *value == file);
                assert!(is_read, "{}: nobody reads {file}", workload.title());
            }
        }
    }
}

#[test]
fn no_secret_is_in_the_files() {
    for manifests in Manifests::all("no_secret_is_in_the_files") {
        assert_eq!(manifests.of_kind("Secret").count(), 0);
        for (workload, _) in manifests.ours() {
            for name in workload.env().keys() {
                let is_secret = NAMES.contains(&format!("{name}_FILE").as_str());
                assert!(!is_secret, "{}: {name} belongs into a file", workload.title());
            }
        }
    }
}

#[test]
fn probes_and_ports_are_those_of_the_program() {
    for manifests in Manifests::all("probes_and_ports_are_those_of_the_program") {
        for (workload, program) in manifests.services() {
            let (env, ports) = (workload.env(), workload.ports());
            let port = |name: &str| env[name].rsplit(':').next().unwrap().parse::<u64>().unwrap();
            let (public, admin) = match program {
                Program::Ingest => (port("INGEST_ADDR"), port("INGEST_ADMIN_ADDR")),
                _ => (port("QUERY_ADDR"), port("QUERY_ADMIN_ADDR")),
            };
            assert_eq!(ports["admin"], admin, "{}", workload.title());
            let is_public = env.get("INGEST_ROLE").is_none_or(|role| role != "consumer");
            assert_eq!(ports.get("http"), is_public.then_some(&public), "{}", workload.title());
            let container = workload.container();
            for (probe, path) in [
                ("readinessProbe", "/health/ready"),
                ("livenessProbe", "/health/live"),
                ("startupProbe", "/health/live"),
            ] {
                let get = &container[probe]["httpGet"];
                assert_eq!((&get["path"], &get["port"]), (&path.into(), &"admin".into()), "{}", workload.title());
            }
            // Every 10 s; three bad ones take it out, one good one brings it back.
            let readiness = &container["readinessProbe"];
            for (name, expected) in [("periodSeconds", 10), ("failureThreshold", 3), ("successThreshold", 1)] {
                assert_eq!(readiness[name], Value::from(expected), "{}: {name}", workload.title());
            }
            let scraped = &workload.pod()["metadata"]["annotations"]["prometheus.io/port"];
            assert_eq!(scraped.as_str(), Some(admin.to_string().as_str()), "{}", workload.title());
        }
        services_lead_to_ports(&manifests);
    }
    let probes = std::fs::read_to_string(root().join("deploy/service/src/admin.rs")).unwrap();
    assert!(probes.contains("\"/health/ready\"") && probes.contains("\"/health/live\""), "{probes}");
}

fn services_lead_to_ports(manifests: &Manifests) {
    for service in manifests.of_kind("Service") {
        let selector = service["spec"]["selector"].as_mapping().unwrap();
        let workload = manifests
            .workloads()
            .find(|workload| selector.iter().all(|(name, value)| workload.labels().get(name) == Some(value)));
        let workload = workload.unwrap_or_else(|| panic!("{} selects nothing", name(service)));
        for port in list(&service["spec"]["ports"]) {
            let target = port["targetPort"].as_str().unwrap();
            assert!(workload.ports().contains_key(target), "{}: {target}", name(service));
        }
    }
    for ingress in manifests.of_kind("Ingress") {
        for path in list(&ingress["spec"]["rules"][0]["http"]["paths"]) {
            let backend = &path["backend"]["service"];
            let service = manifests.one("Service", backend["name"].as_str().unwrap());
            assert!(list(&service["spec"]["ports"]).any(|port| port["name"] == backend["port"]["name"]));
        }
    }
}

#[test]
fn a_pod_has_the_time_that_its_drain_takes() {
    for manifests in Manifests::all("a_pod_has_the_time_that_its_drain_takes") {
        for (workload, program) in manifests.services() {
            let needed = program.ends_within(&workload.env());
            let given = workload.pod()["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(given >= needed.as_secs(), "{}: {needed:?} are needed", workload.title());
        }
    }
}

#[test]
fn pods_gain_nothing_and_have_bounds() {
    for manifests in Manifests::all("pods_gain_nothing_and_have_bounds") {
        for workload in manifests.workloads() {
            let (pod, container, title) = (&workload.pod()["spec"], workload.container(), workload.title());
            assert_eq!(pod["automountServiceAccountToken"], Value::from(false), "{title}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], Value::from(true), "{title}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], Value::from("RuntimeDefault"), "{title}");
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], Value::from(true), "{title}");
            assert_eq!(context["allowPrivilegeEscalation"], Value::from(false), "{title}");
            assert_eq!(context["capabilities"]["drop"][0], Value::from("ALL"), "{title}");
            let resources = &container["resources"];
            assert!(resources["requests"]["cpu"].is_string() && resources["requests"]["memory"].is_string(), "{title}");
            assert!(resources["limits"]["memory"].is_string(), "{title}");
            if workload.program().is_some() {
                assert_eq!(pod["securityContext"]["runAsUser"], Value::from(65_532), "{title}");
            }
            let policies = manifests.of_kind("NetworkPolicy");
            let mut guarded = policies.filter(|policy| selects(&policy["spec"]["podSelector"], workload.labels()));
            assert!(guarded.next().is_some() || workload.kind() == "Job", "{title}: no NetworkPolicy");
        }
    }
}

#[test]
fn services_scale_survive_disruptions_and_are_spread() {
    for manifests in Manifests::all("services_scale_survive_disruptions_and_are_spread") {
        for (workload, _) in manifests.services() {
            let (title, name) = (workload.title(), workload.name());
            let scaler = &manifests.one("HorizontalPodAutoscaler", name)["spec"];
            assert_eq!(scaler["scaleTargetRef"]["kind"].as_str(), Some(workload.kind()), "{title}");
            assert_eq!(scaler["scaleTargetRef"]["name"].as_str(), Some(name), "{title}");
            assert!(workload.object["spec"]["replicas"].is_null(), "{title}: replicas would undo what was scaled");
            assert!(list(&scaler["metrics"]).any(|metric| metric["resource"]["name"] == "cpu"), "{title}");
            let least = scaler["minReplicas"].as_u64().unwrap();
            assert!(least >= if manifests.is_prod() { 3 } else { 1 }, "{title}");
            let budget = &manifests.one("PodDisruptionBudget", name)["spec"];
            assert!(selects(&budget["selector"], workload.labels()), "{title}");
            let spread: Vec<&Value> = list(&workload.pod()["spec"]["topologySpreadConstraints"]).collect();
            let keys: Vec<_> = spread.iter().map(|one| one["topologyKey"].as_str().unwrap()).collect();
            assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], "{title}");
            assert!(spread.iter().all(|one| selects(&one["labelSelector"], workload.labels())), "{title}");
            let strictness = if manifests.is_prod() { "DoNotSchedule" } else { "ScheduleAnyway" };
            assert_eq!(spread[0]["whenUnsatisfiable"], Value::from(strictness), "{title}");
        }
    }
}

#[test]
fn consumers_scale_by_a_lag_that_they_tell_up_to_the_partitions_that_there_are() {
    for manifests in Manifests::all("consumers_scale_by_a_lag_that_they_tell_up_to_the_partitions_that_there_are") {
        let scaler = &manifests.one("HorizontalPodAutoscaler", "consumer")["spec"];
        let metric = list(&scaler["metrics"]).find(|metric| metric["type"] == "External").unwrap();
        let metric = metric["external"]["metric"]["name"].as_str().unwrap();
        // The list of all that there are.
        assert!(read("prometheus/metrics.md").contains(&format!("\n| `{metric}` | gauge |")), "{metric} is no metric");
        assert!(read("k8s/prometheus-adapter.yaml").contains(&format!("name: {{ as: {metric} }}")), "{metric}");
        let consumer = manifests.workloads().find(|workload| workload.name() == "consumer").unwrap();
        let partitions: u64 = consumer.env().get("KAFKA_PARTITIONS").map_or(4, |text| text.parse().unwrap());
        let most = scaler["maxReplicas"].as_u64().unwrap();
        assert!(most <= partitions, "{}: {most} consumers of {partitions} partitions", manifests.overlay);
    }
}

#[test]
fn what_must_last_has_a_disk_that_is_large_enough() {
    for manifests in Manifests::all("what_must_last_has_a_disk_that_is_large_enough") {
        let gateway = manifests.one("StatefulSet", "gateway");
        let claim = &gateway["spec"]["volumeClaimTemplates"][0];
        let size = bytes(claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap());
        let workload = manifests.workloads().find(|workload| workload.name() == "gateway").unwrap();
        let spool: u64 = workload.env()["SPOOL_BYTES"].parse().unwrap();
        // It stops at 256 MiB that are left, and segments are whole.
        assert!(size >= spool + (1 << 30), "{size} bytes for {spool}");
        for set in ["gateway", "consumer"] {
            let kept = &manifests.one("StatefulSet", set)["spec"]["persistentVolumeClaimRetentionPolicy"];
            assert_eq!((&kept["whenDeleted"], &kept["whenScaled"]), (&"Retain".into(), &"Retain".into()));
        }
    }
}

#[test]
fn stores_are_as_many_as_promised_and_found_by_their_names() {
    for manifests in Manifests::all("stores_are_as_many_as_promised_and_found_by_their_names") {
        let prod = manifests.is_prod();
        let installation = manifests.of_kind("ClickHouseInstallation").next().unwrap();
        let cluster = &installation["spec"]["configuration"]["clusters"][0];
        let count = |what: &str| cluster["layout"][what].as_u64().unwrap();
        let (shards, replicas) = (count("shardsCount"), count("replicasCount"));
        assert_eq!((shards, replicas), if prod { (3, 2) } else { (1, 1) });
        let host = |shard, replica| {
            let (one, other) = (name(installation), cluster["name"].as_str().unwrap());
            format!("http://chi-{one}-{other}-{shard}-{replica}:8123")
        };
        let servers = (0..shards).map(|shard| (0..replicas).map(|one| host(shard, one)).collect::<Vec<_>>().join("|"));
        let all = servers.collect::<Vec<_>>().join(",");
        for (workload, _) in manifests.ours() {
            let env = workload.env();
            let expected = if prod { all.as_str() } else { "http://clickhouse-tallyhouse:8123" };
            assert_eq!(env["CLICKHOUSE_URL"], expected, "{}", workload.title());
            assert_eq!(env.get("CLICKHOUSE_CLUSTER").map(String::as_str), prod.then_some("tallyhouse"));
        }
        let keeper = manifests.of_kind("ClickHouseKeeperInstallation").next().unwrap();
        let keepers = &keeper["spec"]["configuration"]["clusters"][0]["layout"]["replicasCount"];
        assert_eq!(keepers.as_u64(), Some(if prod { 3 } else { 1 }));
        let node = &installation["spec"]["configuration"]["zookeeper"]["nodes"][0]["host"];
        assert_eq!(node.as_str(), Some(format!("keeper-{}", name(keeper)).as_str()));
        kafka_and_redis(&manifests, prod);
    }
}

fn kafka_and_redis(manifests: &Manifests, prod: bool) {
    let kafka = manifests.of_kind("Kafka").next().unwrap();
    let setting = |name: &str| kafka["spec"]["kafka"]["config"][name].as_u64().unwrap();
    let brokers = manifests.one("KafkaNodePool", "broker")["spec"]["replicas"].as_u64().unwrap();
    let expected = if prod { (3, 3, 2) } else { (1, 1, 1) };
    assert_eq!((brokers, setting("default.replication.factor"), setting("min.insync.replicas")), expected);
    assert_eq!(setting("offsets.topic.replication.factor"), brokers);
    for (workload, program) in manifests.services() {
        if program != Program::Ingest {
            continue;
        }
        let env = workload.env();
        let port = kafka["spec"]["kafka"]["listeners"][0]["port"].as_u64().unwrap();
        assert_eq!(env["KAFKA_BROKERS"], format!("{}-kafka-bootstrap:{port}", name(kafka)));
        assert!(env.get("KAFKA_REPLICATION").is_none_or(|copies| *copies == brokers.to_string()));
    }
    let nodes = manifests.one("StatefulSet", "redis")["spec"]["replicas"].as_u64().unwrap();
    let join = manifests.workloads().find(|workload| workload.name() == "redis-join").unwrap();
    assert_eq!((nodes, join.env()["NODES"].as_str()), (6, "6"));
}

#[test]
fn the_balancer_asks_every_ten_seconds_and_gives_questions_to_whom_has_the_fewest() {
    let test = "the_balancer_asks_every_ten_seconds_and_gives_questions_to_whom_has_the_fewest";
    let Some(manifests) = Manifests::of(test, "prod") else { return };
    for (ingress, balance) in [("ingest", "roundrobin"), ("query", "leastconn")] {
        let annotations = &manifests.one("Ingress", ingress)["metadata"]["annotations"];
        let says = |name: &str| annotations[format!("haproxy.org/{name}").as_str()].as_str().unwrap().trim().to_owned();
        assert_eq!((says("load-balance").as_str(), says("check-interval").as_str()), (balance, "10s"));
        assert_eq!(says("backend-config-snippet"), "default-server fall 3 rise 1");
    }
    let env: BTreeMap<String, String> = manifests.services()[0].0.env();
    // A balancer keeps idle connections for a minute, and has as many as it likes.
    assert!(env["TALLYHOUSE_IDLE_MS"].parse::<u64>().unwrap() > 60_000);
    assert!(env["TALLYHOUSE_SHUTDOWN_DELAY_MS"].parse::<u64>().unwrap() >= 10_000);
}

/// The users of compose, with what `sql/access/cluster.sql` grants beside: a Kustomization reads no file outside its folder.
#[test]
fn the_files_of_clickhouse_are_those_of_compose() {
    let compose = read("compose/clickhouse/users.d/tallyhouse.xml");
    let users = match std::fs::read_to_string(root().join("sql/access/cluster.sql")) {
        Ok(sql) => {
            let dashboards = read("../sql/access/dashboards.cluster.sql");
            // As `ALTER USER` has it there.
            ["max_result_rows", "max_result_bytes"]
                .iter()
                .fold(with_grants(with_grants(compose, &sql), &dashboards), |users, limit| {
                    users.replace(&format!("<{limit}><min>1<"), &format!("<{limit}><min>0<"))
                })
        }
        Err(_) => compose,
    };
    let config = read("compose/clickhouse/config.d/tallyhouse.xml");
    let (before, _) = config.split_once("    <!-- For tables of a cluster").unwrap();
    let config = format!("{}\n</clickhouse>\n", before.trim_end());
    for (file, made) in [("users.xml", users), ("config.xml", config)] {
        let path = format!("k8s/stores/clickhouse/{file}");
        if ProcessEnv.get("UPDATE_FILES").is_some() {
            std::fs::write(root().join("deploy").join(&path), &made).unwrap();
        }
        assert!(read(&path) == made, "run this test with UPDATE_FILES=1, and look at what changed in {file}");
    }
    for manifests in Manifests::all("the_files_of_clickhouse_are_those_of_compose") {
        let installation = manifests.of_kind("ClickHouseInstallation").next().unwrap();
        let files = &installation["spec"]["configuration"]["files"];
        assert_eq!(files["users.d/tallyhouse.xml"].as_str().unwrap(), read("k8s/stores/clickhouse/users.xml"));
        assert_eq!(files["config.d/tallyhouse.xml"].as_str().unwrap(), read("k8s/stores/clickhouse/config.xml"));
        let pod = &installation["spec"]["templates"]["podTemplates"][0]["spec"]["containers"][0];
        let given: Vec<&str> = list(&pod["env"]).map(|variable| variable["name"].as_str().unwrap()).collect();
        let users = read("k8s/stores/clickhouse/users.xml");
        for part in users.split("from_env=\"").skip(1) {
            let variable = part.split('"').next().unwrap();
            assert!(given.contains(&variable), "{variable}");
        }
    }
}

/// The tiers of a server, and what the pod has for them.
#[test]
fn the_tiers_are_those_of_a_server_and_are_given_what_they_ask_for() {
    let storage = read("clickhouse/storage.xml");
    if ProcessEnv.get("UPDATE_FILES").is_some() {
        std::fs::write(root().join("deploy/k8s/stores/tiers/storage.xml"), &storage).unwrap();
    }
    assert!(read("k8s/stores/tiers/storage.xml") == storage, "run this test with UPDATE_FILES=1");
    let asked: Vec<&str> = storage.split("from_env=\"").skip(1).map(|part| part.split('"').next().unwrap()).collect();
    assert_eq!(asked.len(), 4);
    let compose: Value = serde_yaml_ng::from_str(&read("compose/tiers.yaml")).unwrap();
    let service = &compose["services"]["clickhouse"];
    assert!(asked.iter().all(|name| service["environment"].get(*name).is_some()), "{asked:?}");
    let mounted: Vec<&str> = list(&service["volumes"]).filter_map(Value::as_str).collect();
    assert!(mounted.iter().any(|one| one.ends_with(":/var/lib/clickhouse-warm")), "{mounted:?}");
    assert!(storage.contains("<path>/var/lib/clickhouse-warm/</path>"));
    let test = "the_tiers_are_those_of_a_server_and_are_given_what_they_ask_for";
    let Some(manifests) = Manifests::of(test, "prod-tiers") else { return };
    let spec = &manifests.of_kind("ClickHouseInstallation").next().unwrap()["spec"];
    assert_eq!(spec["configuration"]["files"]["config.d/storage.xml"].as_str().unwrap(), storage);
    let server = &spec["templates"]["podTemplates"][0]["spec"]["containers"][0];
    let given: Vec<&str> = list(&server["env"]).map(|variable| variable["name"].as_str().unwrap()).collect();
    assert!(asked.iter().all(|name| given.contains(name)), "{given:?}");
    let url = list(&server["env"]).find(|variable| variable["name"] == "COLD_S3_URL").unwrap();
    assert!(
        url["value"].as_str().unwrap().contains("{shard}-{replica}"),
        "servers would write over each other: {url:?}"
    );
    let claims: Vec<&str> =
        list(&spec["templates"]["volumeClaimTemplates"]).map(|claim| claim["name"].as_str().unwrap()).collect();
    for mount in list(&server["volumeMounts"]) {
        assert!(claims.contains(&mount["name"].as_str().unwrap()) && mount["mountPath"] == "/var/lib/clickhouse-warm");
    }
}

fn with_grants(mut users: String, sql: &str) -> String {
    let statements = sql.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ");
    let grants = statements.split(';').map(str::trim).filter(|statement| statement.starts_with("GRANT "));
    let mut added = 0;
    for (grant, user) in grants.filter_map(|grant| grant.rsplit_once(" TO ")) {
        let (before, rest) = users.split_once(&format!("        <{user}>\n            <password")).unwrap();
        let (own, after) = rest.split_once("            </grants>").unwrap();
        users = format!(
            "{before}        <{user}>\n            <password{own}                <query>{grant}</query>\n            </grants>{after}"
        );
        added += 1;
    }
    assert!(added > 0, "{sql}");
    users
}

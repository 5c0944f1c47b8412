//! compose.yaml beside what the programs are.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value as Json;
use serde_yaml_ng::Value;
use tallyhouse_service::lifecycle::MARGIN;
use tallyhouse_testkit::Folder;

use crate::compose_file::{Compose, Service, folder, made_env, named_variables};
use crate::programs::Program;
use crate::tools::{output, read, tool_or_skip};

fn compose() -> (Compose, BTreeMap<String, String>) {
    let scratch = Folder::create();
    let variables = made_env(scratch.path());
    (Compose::read(&variables), variables)
}

#[test]
fn each_service_sets_variables_that_its_program_reads() {
    let (compose, _) = compose();
    let ours = compose.services().filter_map(|service| Some((service, service.program()?)));
    let mut checked = 0;
    for (service, program) in ours {
        for name in service.env().keys() {
            assert!(program.reads(name), "{}: {program:?} does not read {name}", service.name);
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

#[test]
fn what_is_set_in_env_is_used_and_the_other_way_round() {
    let example = read("compose/.env.example");
    let listed: BTreeSet<String> = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('=').map(|(name, _)| name.to_owned()))
        .filter(|name| !name.contains(' '))
        .collect();
    let files = ["compose/compose.yaml", "compose/traces.yaml", "compose/tiers.yaml", "backup/compose.yaml"];
    let mut used: BTreeSet<String> = files.iter().flat_map(|file| named_variables(&read(file))).collect();
    used.extend(secrets(&compose().0));
    assert_eq!(listed, used);
    let (_, variables) = compose();
    for (name, value) in &variables {
        // 128 bits, different for each.
        assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    }
    let values: BTreeSet<&String> = variables.values().collect();
    assert_eq!(values.len(), variables.len());
}

/// A newer version may ask for a secret that an .env has not.
#[test]
fn a_secret_that_is_missing_is_added_and_nothing_else_is_changed() {
    let scratch = Folder::create();
    let path = scratch.path().join(".env");
    let older = "# mine\nREDIS_PASSWORD=secret\nBIND=0.0.0.0";
    std::fs::write(&path, older).unwrap();
    let init = || output(Command::new(folder().join("init.sh")).arg(&path));
    init();
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, added) = text.split_at(older.len());
    assert_eq!(before, older);
    let added: BTreeSet<&str> = added.trim().lines().map(|line| line.split_once('=').unwrap().0).collect();
    let (_, all) = compose();
    let missing: BTreeSet<&str> = all.keys().map(String::as_str).filter(|name| *name != "REDIS_PASSWORD").collect();
    assert_eq!(added, missing);
    assert!(added.contains("CANARY_KEY"), "{added:?}");
    init();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

/// The services that make spans reach a collector outside.
#[test]
fn traces_leave_every_service_that_makes_them() {
    let (compose, variables) = compose();
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://10.0.0.5:4318".to_owned());
    let with = Compose::read_file("compose/traces.yaml", &variables.into_iter().chain([collector]).collect());
    let ours = compose.services().filter(|one| matches!(one.program(), Some(Program::Ingest | Program::QueryApi)));
    for service in ours {
        let more = with.service(service.name);
        let program = service.program().unwrap();
        for (name, value) in more.env() {
            assert!(name.starts_with("OTEL_") && program.reads(&name), "{}: {name}", service.name);
            assert!(name != "OTEL_EXPORTER_OTLP_ENDPOINT" || value == "http://10.0.0.5:4318", "{value}");
        }
        assert_eq!(more.env().len(), 3, "{}", service.name);
        let networks = |service: Service<'_>| service.value["networks"].as_sequence().cloned().unwrap_or_default();
        let all = [networks(service), networks(more)].concat();
        assert!(all.contains(&Value::from("front")), "{} leads nowhere", service.name);
    }
}

fn secrets(compose: &Compose) -> Vec<String> {
    let secrets = compose.file["secrets"].as_mapping().unwrap();
    secrets.values().map(|secret| secret["environment"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn our_images_gain_nothing_and_write_to_their_folder_alone() {
    let (compose, _) = compose();
    for service in compose.services().filter(|service| service.program().is_some()) {
        let (name, value) = (service.name, service.value);
        assert_eq!(value["read_only"], Value::Bool(true), "{name}");
        assert_eq!(value["cap_drop"][0], Value::from("ALL"), "{name}");
        assert_eq!(value["security_opt"][0], Value::from("no-new-privileges:true"), "{name}");
        let targets: Vec<&str> = service.volumes().into_iter().map(|(_, target)| target).collect();
        assert!(targets.iter().all(|target| ["/data", "/flights.csv"].contains(target)), "{name}: {targets:?}");
    }
}

#[test]
fn a_stop_waits_for_the_drain() {
    let (compose, _) = compose();
    for service in compose.services() {
        let Some(program) = service.program() else { continue };
        let needed = program.ends_within(&service.env());
        assert!(service.stop_grace_period() >= needed, "{}: {needed:?} are needed", service.name);
        let has_drain = matches!(program, Program::Ingest | Program::QueryApi);
        assert!(!has_drain || needed > MARGIN, "{}", service.name);
    }
}

#[test]
fn ports_are_those_that_are_listened_on() {
    let (compose, _) = compose();
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    for (name, public, admin) in
        [("gateway", "INGEST_ADDR", "INGEST_ADMIN_ADDR"), ("query-api", "QUERY_ADDR", "QUERY_ADMIN_ADDR")]
    {
        let service = compose.service(name);
        let env = service.env();
        // The admin port is for Prometheus, not for the world.
        assert_eq!(service.published(), [port(&env[public])], "{name}");
        let exposed = format!("EXPOSE {} {}", port(&env[public]), port(&env[admin]));
        assert!(read("compose/Dockerfile").lines().any(|line| line == exposed), "{exposed}");
    }
}

#[test]
fn prometheus_asks_every_admin_port_under_the_names_that_alerts_use() {
    let (compose, _) = compose();
    let ours: Value = serde_yaml_ng::from_str(&read("compose/prometheus/prometheus.yml")).unwrap();
    let targets = |config: &Value| -> BTreeMap<String, Vec<String>> {
        let jobs = config["scrape_configs"].as_sequence().unwrap().iter();
        jobs.map(|job| {
            let targets = job["static_configs"][0]["targets"].as_sequence().unwrap();
            let targets = targets.iter().map(|target| target.as_str().unwrap().to_owned()).collect();
            (job["job_name"].as_str().unwrap().to_owned(), targets)
        })
        .collect()
    };
    let found = targets(&ours);
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in compose.services() {
        let env = service.env();
        for (name, job) in [("INGEST_ADMIN_ADDR", "tallyhouse-ingest"), ("QUERY_ADMIN_ADDR", "tallyhouse-query-api")] {
            let Some(address) = env.get(name) else { continue };
            let port = address.rsplit(':').next().unwrap();
            expected.entry(job.to_owned()).or_default().push(format!("{}:{port}", service.name));
            assert!(env["ADMIN_HOSTS"].split(',').any(|host| host == service.name), "{}", service.name);
        }
    }
    for (job, targets) in expected {
        assert_eq!(found.get(&job), Some(&targets), "{job}");
    }
}

#[test]
fn grafana_is_given_what_its_provisioning_asks_for() {
    let (compose, _) = compose();
    let grafana = compose.service("grafana");
    let folder = folder().join("../grafana/provisioning");
    let mut asked = BTreeSet::new();
    for kind in ["datasources", "dashboards"] {
        // Not made yet.
        let Ok(files) = std::fs::read_dir(folder.join(kind)) else { continue };
        for file in files {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let of_a_name = |c: char| !(c.is_ascii_uppercase() || c == '_');
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            let values = lines.flat_map(|line| line.split('$').skip(1).collect::<Vec<_>>());
            asked.extend(values.map(|value| value.split(of_a_name).next().unwrap().to_owned()));
        }
    }
    let env = grafana.env();
    for name in asked {
        assert!(env.contains_key(&name), "{name} is not set");
    }
    let folder = &env["TALLYHOUSE_DASHBOARDS"];
    assert!(grafana.volumes().contains(&("../grafana/dashboards", folder)), "{folder}");
}

#[test]
fn images_of_others_are_pinned_and_name_no_host() {
    let (compose, _) = compose();
    for service in compose.services() {
        let (name, tag) = service.image().rsplit_once(':').unwrap();
        assert!(!tag.is_empty() && tag != "latest", "{}", service.image());
        assert!(name.split('/').count() <= 2 && !name.split('/').next().unwrap().contains('.'), "{name}");
    }
}

#[test]
fn what_is_mounted_is_there() {
    let (compose, _) = compose();
    for service in compose.services() {
        for (source, target) in service.volumes() {
            if !source.starts_with('.') {
                assert!(compose.file["volumes"].get(source).is_some(), "{}: no volume {source}", service.name);
                continue;
            }
            // Made by setup.sh, and not made yet.
            let is_there = source.contains(".setup/") || folder().join(source).exists();
            assert!(is_there, "{}: {source} for {target}", service.name);
        }
    }
}

/// The library that Docker's client reads the file with agrees with what the other tests read.
#[test]
fn compose_reads_it_as_these_tests_do() {
    let Some(tool) = tool_or_skip("compose_reads_it_as_these_tests_do", "compose") else { return };
    let (compose, variables) = compose();
    let mut command = Command::new(tool);
    let text = output(command.arg(folder().join("compose.yaml")).envs(&variables));
    let read: Json = serde_json::from_str(&text).unwrap();
    let services = read["services"].as_object().unwrap();
    assert_eq!(services.len(), compose.services().count());
    for service in compose.services() {
        let other = &services[service.name];
        assert_eq!(other["image"], service.image());
        let env: BTreeMap<String, String> = serde_json::from_value(other["environment"].clone()).unwrap_or_default();
        assert_eq!(env, service.env(), "{}", service.name);
        let command: Vec<String> = serde_json::from_value(other["command"].clone()).unwrap_or_default();
        assert_eq!(command, service.command(), "{}", service.name);
    }
}

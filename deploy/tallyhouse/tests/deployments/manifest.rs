//! Reads what Kustomize makes of an overlay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize as _;
use serde_yaml_ng::Value;

use crate::programs::Program;
use crate::tools::{output, root, skip, tool_or_skip};

pub const OVERLAYS: [&str; 4] = ["dev", "prod", "prod-tiers", "prod-traces"];

/// Where containers find secrets.
pub const SECRETS: &str = "/run/secrets/tallyhouse/";

/// All objects of an overlay.
pub struct Manifests {
    pub overlay: &'static str,
    pub text: &'static str,
    pub objects: Vec<Value>,
}

impl Manifests {
    /// `None`, told by the test's name, when Kustomize is not there.
    pub fn of(test: &str, overlay: &'static str) -> Option<Self> {
        static BUILT: OnceLock<[String; OVERLAYS.len()]> = OnceLock::new();
        let tool = tool_or_skip(test, "kustomize")?;
        let build =
            |overlay| output(Command::new(&tool).arg("build").arg(root().join("deploy/k8s/overlays").join(overlay)));
        let place = OVERLAYS.iter().position(|other| *other == overlay).unwrap();
        let text = &BUILT.get_or_init(|| OVERLAYS.map(build))[place];
        let objects = serde_yaml_ng::Deserializer::from_str(text).map(|one| Value::deserialize(one).unwrap());
        Some(Self { overlay, objects: objects.collect(), text })
    }

    pub fn all(test: &str) -> Vec<Self> {
        OVERLAYS.into_iter().filter_map(|overlay| Self::of(test, overlay)).collect()
    }

    pub fn is_prod(&self) -> bool {
        self.overlay.starts_with("prod")
    }

    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    pub fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self.objects.iter().find(|object| object["kind"] == kind && self::name(object) == name);
        found.unwrap_or_else(|| panic!("{}: there is no {kind} {name}", self.overlay))
    }

    /// What runs pods: `Deployment`, `StatefulSet`, `Job`.
    pub fn workloads(&self) -> impl Iterator<Item = Workload<'_>> {
        let kinds = ["Deployment", "StatefulSet", "Job"];
        let objects = self.objects.iter().filter(move |object| kinds.contains(&object["kind"].as_str().unwrap()));
        objects.map(|object| Workload { manifests: self, object })
    }

    /// Those of our programs.
    pub fn ours(&self) -> Vec<(Workload<'_>, Program)> {
        self.workloads().filter_map(|workload| Some((workload, workload.program()?))).collect()
    }

    /// Those that serve.
    pub fn services(&self) -> Vec<(Workload<'_>, Program)> {
        let ours = self.ours().into_iter();
        ours.filter(|(_, program)| matches!(program, Program::Ingest | Program::QueryApi)).collect()
    }
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The elements of a list, none when it is not there.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_sequence().into_iter().flatten()
}

#[derive(Clone, Copy)]
pub struct Workload<'a> {
    manifests: &'a Manifests,
    pub object: &'a Value,
}

impl<'a> Workload<'a> {
    pub fn name(self) -> &'a str {
        name(self.object)
    }

    pub fn kind(self) -> &'a str {
        self.object["kind"].as_str().unwrap()
    }

    /// For messages.
    pub fn title(self) -> String {
        format!("{} {} of {}", self.kind(), self.name(), self.manifests.overlay)
    }

    pub fn pod(self) -> &'a Value {
        &self.object["spec"]["template"]
    }

    pub fn container(self) -> &'a Value {
        let containers = self.pod()["spec"]["containers"].as_sequence().unwrap();
        assert_eq!(containers.len(), 1, "{}", self.title());
        &containers[0]
    }

    pub fn program(self) -> Option<Program> {
        Program::of_image(self.container()["image"].as_str().unwrap())
    }

    /// What its container is given.
    pub fn env(self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for source in list(&self.container()["envFrom"]) {
            let map = self.manifests.one("ConfigMap", source["configMapRef"]["name"].as_str().unwrap());
            for (name, value) in map["data"].as_mapping().unwrap() {
                env.insert(name.as_str().unwrap().to_owned(), value.as_str().unwrap().to_owned());
            }
        }
        for variable in list(&self.container()["env"]) {
            let value = variable["value"].as_str().unwrap_or_else(|| panic!("{}: {variable:?}", self.title()));
            env.insert(variable["name"].as_str().unwrap().to_owned(), value.to_owned());
        }
        env
    }

    /// The files of secrets that are mounted.
    pub fn secret_files(self) -> Vec<String> {
        let volumes = list(&self.pod()["spec"]["volumes"]);
        let secrets = volumes.filter(|volume| volume["secret"]["secretName"] == "tallyhouse");
        let items = secrets.flat_map(|volume| list(&volume["secret"]["items"]));
        items.map(|item| format!("{SECRETS}{}", item["path"].as_str().unwrap())).collect()
    }

    /// The container's ports by their names.
    pub fn ports(self) -> BTreeMap<&'a str, u64> {
        let ports = list(&self.container()["ports"]);
        ports.map(|port| (port["name"].as_str().unwrap(), port["containerPort"].as_u64().unwrap())).collect()
    }

    pub fn labels(self) -> &'a Value {
        &self.pod()["metadata"]["labels"]
    }
}

/// Whether a selector, `matchLabels` and `matchExpressions`, takes these labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_mapping().into_iter().flatten();
    equal.into_iter().all(|(name, value)| labels.get(name) == Some(value))
        && list(&selector["matchExpressions"]).all(|one| {
            let value = labels.get(one["key"].as_str().unwrap());
            list(&one["values"]).any(|listed| Some(listed) == value)
        })
}

/// `8Gi` in bytes.
pub fn bytes(quantity: &str) -> u64 {
    let (number, unit) = quantity.split_at(quantity.find(|c: char| !c.is_ascii_digit()).unwrap());
    let shift = match unit {
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        "Ti" => 40,
        other => panic!("{other}"),
    };
    number.parse::<u64>().unwrap() << shift
}

/// The schemas of Kubernetes, where `setup.sh --tests` puts them, or `None`, told by the test's name.
pub fn schemas_or_skip(test: &str) -> Option<PathBuf> {
    let folder = root().join(".setup/kubernetes");
    if folder.exists() {
        return Some(folder);
    }
    skip(test, "it needs the schemas of Kubernetes, which `deploy/tallyhouse/setup.sh --tests` fetches");
    None
}

//! Who reaches whom through the `NetworkPolicies` of an overlay.

use serde_yaml_ng::Value;

use crate::manifest::{Manifests, list, selects};

/// Somebody who sends or listens.
struct Peer {
    namespace: String,
    labels: Value,
    /// Ports of a container by name.
    ports: Vec<(String, u64)>,
}

impl Peer {
    /// Pods of the overlay's own namespace with one label.
    fn with_label(manifests: &Manifests, label: &str, value: &str) -> Self {
        let labels = serde_yaml_ng::from_str(&format!("{{ {label}: {value} }}")).unwrap();
        Self { namespace: own_namespace(manifests), labels, ports: Vec::new() }
    }

    fn service(manifests: &Manifests, name: &str) -> Self {
        let workload = manifests.workloads().find(|workload| workload.name() == name).unwrap();
        let ports = workload.ports().into_iter().map(|(name, port)| (name.to_owned(), port)).collect();
        Self { namespace: own_namespace(manifests), labels: workload.labels().clone(), ports }
    }

    /// Any pod of a namespace that is not ours.
    fn of(namespace: &str, labels: &str) -> Self {
        Self { namespace: namespace.to_owned(), labels: serde_yaml_ng::from_str(labels).unwrap(), ports: Vec::new() }
    }
}

fn own_namespace(manifests: &Manifests) -> String {
    let namespace = manifests.of_kind("Namespace").next().unwrap();
    namespace["metadata"]["name"].as_str().unwrap().to_owned()
}

/// Whether every policy lets a connection through, by TCP unless it is said.
fn reaches(manifests: &Manifests, from: &Peer, to: &Peer, (protocol, port): (&str, u64)) -> bool {
    let allows = |direction: &str, of: &Peer, other: &Peer| {
        let policies = manifests.of_kind("NetworkPolicy").filter(|policy| {
            policy["metadata"]["namespace"] == of.namespace.as_str()
                && list(&policy["spec"]["policyTypes"]).any(|kind| kind == direction)
                && selects(&policy["spec"]["podSelector"], &of.labels)
        });
        let policies: Vec<_> = policies.collect();
        let (rules, peers) = if direction == "Egress" { ("egress", "to") } else { ("ingress", "from") };
        let is_own = |peer: &Value| is_peer(peer, &of.namespace, other);
        let lets = |rule: &Value| {
            (rule[peers].is_null() || list(&rule[peers]).any(is_own)) && is_port(rule, to, protocol, port)
        };
        policies.is_empty() || policies.iter().any(|policy| list(&policy["spec"][rules]).any(lets))
    };
    allows("Egress", from, to) && allows("Ingress", to, from)
}

fn is_peer(rule: &Value, own_namespace: &str, peer: &Peer) -> bool {
    let of_namespace = &rule["namespaceSelector"];
    let name = serde_yaml_ng::from_str(&format!("kubernetes.io/metadata.name: {}", peer.namespace)).unwrap();
    let is_in = if of_namespace.is_null() { peer.namespace == own_namespace } else { selects(of_namespace, &name) };
    let of_pod = &rule["podSelector"];
    is_in && (of_pod.is_null() || selects(of_pod, &peer.labels))
}

fn is_port(rule: &Value, to: &Peer, protocol: &str, port: u64) -> bool {
    rule["ports"].is_null()
        || list(&rule["ports"]).any(|one| {
            let number = one["port"].as_u64().or_else(|| {
                let name = one["port"].as_str()?;
                to.ports.iter().find(|(other, _)| other == name).map(|(_, port)| *port)
            });
            number == Some(port) && one["protocol"].as_str().unwrap_or("TCP") == protocol
        })
}

#[test]
fn everybody_reaches_what_is_needed_and_nothing_else() {
    for manifests in Manifests::all("everybody_reaches_what_is_needed_and_nothing_else") {
        let service = |name| Peer::service(&manifests, name);
        let clickhouse = || Peer::with_label(&manifests, "clickhouse.altinity.com/chi", "tallyhouse");
        let kafka = || Peer::with_label(&manifests, "strimzi.io/cluster", "tallyhouse");
        let names = || Peer::of("kube-system", "k8s-app: kube-dns");
        let (prometheus, balancer) = (|| Peer::of("monitoring", "{}"), || Peer::of("haproxy-controller", "{}"));
        let collector = || Peer::of("observability", "{}");
        let stranger = || Peer::of("elsewhere", "app.kubernetes.io/name: query-api");
        let traced = manifests.overlay == "prod-traces";
        let mut expected = Vec::new();
        for (name, takes_events, serves) in
            [("gateway", true, true), ("consumer", true, false), ("query-api", false, true), ("migrate", false, false)]
        {
            let is_service = name != "migrate";
            expected.extend([
                (service(name), names(), ("UDP", 53), true),
                (service(name), names(), ("TCP", 53), true),
                (service(name), clickhouse(), ("TCP", 8123), true),
                (service(name), clickhouse(), ("TCP", 9000), false),
                (service(name), kafka(), ("TCP", 9092), takes_events),
                (service(name), service("redis"), ("TCP", 6379), is_service),
                (service(name), collector(), ("TCP", 4318), traced && is_service),
                // The canary.
                (service(name), service("gateway"), ("TCP", 8081), name == "query-api"),
                (service(name), service("gateway"), ("TCP", 9081), false),
                (service(name), stranger(), ("TCP", 443), false),
            ]);
            if is_service {
                let admin = service(name).ports.iter().find(|(port, _)| port == "admin").unwrap().1;
                expected.extend([
                    (prometheus(), service(name), ("TCP", admin), true),
                    (stranger(), service(name), ("TCP", admin), false),
                    (balancer(), service(name), ("TCP", admin), false),
                ]);
            }
            if serves {
                let public = service(name).ports.iter().find(|(port, _)| port == "http").unwrap().1;
                expected.extend([
                    (balancer(), service(name), ("TCP", public), true),
                    (stranger(), service(name), ("TCP", public), false),
                ]);
            }
        }
        for (from, to, port, is_let) in expected {
            let told = format!("{}: {:?} to {:?} {port:?}", manifests.overlay, from.labels, to.labels);
            assert_eq!(reaches(&manifests, &from, &to, port), is_let, "{told}");
        }
    }
}

/// A component adds objects that are in no namespace: `kubectl` would put them into whatever is the default.
#[test]
fn every_object_is_in_the_namespace_of_its_overlay() {
    for manifests in Manifests::all("every_object_is_in_the_namespace_of_its_overlay") {
        let own = own_namespace(&manifests);
        for object in manifests.objects.iter().filter(|object| object["kind"] != "Namespace") {
            let metadata = &object["metadata"];
            assert_eq!(metadata["namespace"].as_str(), Some(own.as_str()), "{}: {metadata:?}", manifests.overlay);
        }
    }
}

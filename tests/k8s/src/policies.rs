//! What NetworkPolicies let through, as rules for nftables: each pod that a policy selects has a list of what it may begin, or take.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use std::collections::BTreeMap;

/// Whether a selector takes these labels.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| get(key) == Some(value));
    exact
        && selector.match_expressions.iter().flatten().all(|one| {
            let found = get(&one.key);
            let listed = || found.is_some_and(|value| one.values.iter().flatten().any(|wanted| wanted == value));
            match one.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => found.is_some(),
                _ => found.is_none(),
            }
        })
}

struct All<'a> {
    pods: &'a [Pod],
    namespaces: &'a [Namespace],
}

/// The chains for a table. `prerouting` after addresses of Services have been translated: what the node itself begins is never held up.
#[must_use]
pub fn chains(pods: &[Pod], namespaces: &[Namespace], policies: &[NetworkPolicy]) -> String {
    let all = All { pods, namespaces };
    let mut lists = String::new();
    let mut ways = String::new();
    for (number, pod) in pods.iter().enumerate() {
        let Some(address) = address(pod) else { continue };
        for (kind, side) in [("Egress", "saddr"), ("Ingress", "daddr")] {
            let own: Vec<&NetworkPolicy> = policies.iter().filter(|policy| applies(policy, pod, kind)).collect();
            if own.is_empty() {
                continue;
            }
            let chain = format!("{}-{number}", kind.to_lowercase());
            let _ = writeln!(ways, "    ip {side} {address} jump {chain}");
            let _ = writeln!(lists, "  chain {chain} {{");
            for policy in own {
                let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
                let Some(spec) = &policy.spec else { continue };
                if kind == "Egress" {
                    for rule in spec.egress.iter().flatten() {
                        all.list(&mut lists, namespace, rule.to.as_deref(), rule.ports.as_deref(), "daddr", None);
                    }
                } else {
                    for rule in spec.ingress.iter().flatten() {
                        all.list(&mut lists, namespace, rule.from.as_deref(), rule.ports.as_deref(), "saddr", Some(pod));
                    }
                }
            }
            lists.push_str("    drop\n  }\n");
        }
    }
    format!(
        "{lists}  chain policies {{\n    type filter hook prerouting priority -50\n    ct state established,related accept\n{ways}  }}\n"
    )
}

/// The address of a pod that has one and has not ended.
fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    status.pod_ip.as_deref().filter(|_| !ended)
}

fn applies(policy: &NetworkPolicy, pod: &Pod, kind: &str) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let of_kind = types.iter().any(|one| one == kind) || types.is_empty() && kind == "Ingress";
    let selected = spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, pod.metadata.labels.as_ref()));
    of_kind && policy.metadata.namespace == pod.metadata.namespace && selected
}

impl All<'_> {
    /// A line for each peer and port of a rule.
    fn list(
        &self,
        out: &mut String,
        namespace: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
        side: &str,
        own: Option<&Pod>,
    ) {
        let from: Vec<String> = match peers.filter(|peers| !peers.is_empty()) {
            None => vec![String::new()],
            Some(peers) => peers.iter().flat_map(|peer| self.peer(namespace, peer, side)).collect(),
        };
        let through: Vec<String> = match ports.filter(|ports| !ports.is_empty()) {
            None => vec![String::new()],
            Some(ports) => ports.iter().filter_map(|one| port(one, own)).collect(),
        };
        for peer in &from {
            for port in &through {
                let _ = writeln!(out, "    {peer} {port} return");
            }
        }
    }

    fn peer(&self, namespace: &str, peer: &NetworkPolicyPeer, side: &str) -> Vec<String> {
        if let Some(block) = &peer.ip_block {
            let except = block.except.as_ref().filter(|except| !except.is_empty());
            let of = |what: &str| {
                let but = except.map(|except| format!("{what} != {{ {} }} ", except.join(", "))).unwrap_or_default();
                format!("{but}{what} {}", block.cidr)
            };
            // By the address that was asked for, too: a load balancer's, before it was translated.
            let mut out = vec![of(&format!("ip {side}"))];
            if side == "daddr" {
                out.push(of("ct original ip daddr"));
            }
            return out;
        }
        let addresses: Vec<&str> = self
            .pods
            .iter()
            .filter(|pod| {
                let home = pod.metadata.namespace.as_deref().unwrap_or_default();
                let near = match &peer.namespace_selector {
                    None => home == namespace,
                    Some(selector) => {
                        let found = self.namespaces.iter().find(|one| one.metadata.name.as_deref() == Some(home));
                        found.is_some_and(|one| selects(selector, one.metadata.labels.as_ref()))
                    }
                };
                near && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, pod.metadata.labels.as_ref()))
            })
            .filter_map(address)
            .collect();
        if addresses.is_empty() { vec![] } else { vec![format!("ip {side} {{ {} }}", addresses.join(", "))] }
    }
}

fn port(port: &NetworkPolicyPort, own: Option<&Pod>) -> Option<String> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
    let number = match &port.port {
        None => return Some(format!("meta l4proto {protocol}")),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let spec = own.and_then(|pod| pod.spec.as_ref())?;
            let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
            ports.filter(|known| known.name.as_ref() == Some(name)).map(|known| known.container_port).next()?
        }
    };
    let last = port.end_port.map(|last| format!("-{last}")).unwrap_or_default();
    Some(format!("{protocol} dport {number}{last}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(policies: serde_json::Value) -> String {
        let pods: Vec<Pod> = serde_json::from_value(json!([
            {"metadata": {"namespace": "n", "labels": {"app": "a"}}, "status": {"podIP": "10.1.0.1", "phase": "Running"}},
            {"metadata": {"namespace": "n", "labels": {"app": "b"}}, "status": {"podIP": "10.1.0.2", "phase": "Running"},
             "spec": {"containers": [{"name": "c", "ports": [{"name": "metrics", "containerPort": 9464}]}]}},
            {"metadata": {"namespace": "other", "labels": {"app": "b"}}, "status": {"podIP": "10.1.0.3", "phase": "Running"}},
            {"metadata": {"namespace": "n", "labels": {"app": "b"}}, "status": {"podIP": "10.1.0.4", "phase": "Succeeded"}},
        ]))
        .unwrap();
        let namespaces: Vec<Namespace> =
            serde_json::from_value(json!([{"metadata": {"name": "other", "labels": {"x": "y"}}}])).unwrap();
        chains(&pods, &namespaces, &serde_json::from_value::<Vec<NetworkPolicy>>(policies).unwrap())
    }

    #[test]
    fn who_is_not_selected_is_free() {
        assert!(!rules(json!([])).contains("drop"));
        let none =
            rules(json!([{"metadata": {"namespace": "elsewhere"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}]));
        assert!(!none.contains("drop"), "{none}");
    }

    #[test]
    fn egress_is_what_is_listed_and_nothing_else() {
        let text = rules(json!([{"metadata": {"namespace": "n"}, "spec": {
            "podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"],
            "egress": [
                {"ports": [{"protocol": "UDP", "port": 53}]},
                {"to": [{"ipBlock": {"cidr": "203.0.113.0/28"}}], "ports": [{"port": 6379}]},
                {"to": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 5432}]},
            ],
        }}]));
        let chain = "  chain egress-0 {\n     udp dport 53 return\n    ip daddr 203.0.113.0/28 tcp dport 6379 return\n    \
                     ct original ip daddr 203.0.113.0/28 tcp dport 6379 return\n    ip daddr { 10.1.0.2 } tcp dport 5432 return\n    drop\n  }\n";
        assert!(text.contains(chain), "{text}");
        assert!(text.contains("ip saddr 10.1.0.1 jump egress-0") && !text.contains("ingress"), "{text}");
    }

    #[test]
    fn ingress_knows_namespaces_and_names_of_ports() {
        let text = rules(json!([{"metadata": {"namespace": "n"}, "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["b"]}]},
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"x": "y"}}}], "ports": [{"port": "metrics"}]}],
        }}]));
        assert!(text.contains("chain ingress-1 {\n    ip saddr { 10.1.0.3 } tcp dport 9464 return\n    drop\n  }"), "{text}");
        assert!(text.contains("ip daddr 10.1.0.2 jump ingress-1") && !text.contains("10.1.0.4"), "{text}");
    }
}

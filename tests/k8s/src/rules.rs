//! What kube-proxy and a cloud's load balancer do, as rules for nftables: a Service's address and port lead to a ready pod's.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::names::{is_ready, slices_of};

/// The table of a cluster, as `nft -f` takes it: replaces the former one in one step. Only pods of the cluster and the node itself reach
/// addresses of Services; everybody reaches those of load balancers whom loadBalancerSourceRanges lets in.
#[must_use]
pub fn table(cluster: &str, pods: &str, services: &[Service], slices: &[EndpointSlice], policies: &str) -> String {
    let mut chains = String::new();
    let mut inside = String::new();
    let mut outside = String::new();
    let mut refused = String::new();
    let mut own = std::collections::BTreeSet::new();
    for (number, service) in services.iter().enumerate() {
        let Some(spec) = &service.spec else { continue };
        let Some(address) = spec.cluster_ip.as_deref().filter(|ip| ip.contains('.')) else { continue };
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let targets = targets(service, port.name.as_deref(), slices);
            own.extend(targets.iter().map(|(ip, _)| ip.clone()));
            let chain = format!("s{number}-{index}");
            let _ = writeln!(chains, "  chain {chain} {{");
            if !targets.is_empty() {
                let choice = (0..targets.len()).map(|n| format!("{n} : goto {chain}-{n}")).collect::<Vec<_>>().join(", ");
                let _ = writeln!(chains, "    numgen random mod {} vmap {{ {choice} }}", targets.len());
            }
            let _ = writeln!(chains, "  }}");
            // Chains must be known before they are gone to.
            let mut ends = String::new();
            for (n, (ip, port)) in targets.iter().enumerate() {
                let _ = writeln!(ends, "  chain {chain}-{n} {{\n    meta l4proto tcp dnat to {ip}:{port}\n  }}");
            }
            chains.insert_str(0, &ends);
            let mut way = |to: &str, list: &mut String| {
                let _ = writeln!(list, "    ip daddr {to} tcp dport {} goto {chain}", port.port);
                // Nobody is ready: refused at once.
                if targets.is_empty() {
                    let _ = writeln!(refused, "    ip daddr {to} tcp dport {} reject with tcp reset", port.port);
                }
            };
            way(address, &mut inside);
            for ip in balancer(service) {
                if let Some(ranges) = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty()) {
                    let _ = writeln!(
                        outside,
                        "    ip daddr {ip} ip saddr != {{ {}, 127.0.0.0/8, 10.0.0.0/8 }} drop",
                        ranges.join(", ")
                    );
                }
                way(&ip, &mut outside);
            }
        }
    }
    // A pod that reaches itself through a Service must not see its own address as the sender's.
    let hairpins: String = own.iter().fold(String::new(), |mut out, ip| {
        let _ = writeln!(out, "    ip saddr {ip} ip daddr {ip} ct status dnat masquerade");
        out
    });
    format!(
        "table ip {cluster}\ndelete table ip {cluster}\ntable ip {cluster} {{\n{policies}{chains}  chain inside {{\n{inside}  }}\n  chain ways {{\n{outside}    \
         ip saddr {pods} goto inside\n    fib saddr type local goto inside\n  }}\n  chain incoming {{\n    type nat hook prerouting priority dstnat\n    \
         jump ways\n  }}\n  chain own {{\n    type nat hook output priority -100\n    jump ways\n  }}\n  chain back {{\n    \
         type nat hook postrouting priority srcnat\n{hairpins}  }}\n  chain nobody {{\n    type filter hook forward priority filter\n{refused}  }}\n  \
         chain nobody-own {{\n    type filter hook output priority filter\n{refused}  }}\n}}\n"
    )
}

fn balancer(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).filter_map(|ingress| ingress.ip.clone()).collect()
}

/// Addresses and ports of the pods that are ready for a port of a Service, in order.
fn targets(service: &Service, port: Option<&str>, slices: &[EndpointSlice]) -> Vec<(String, i32)> {
    let mut out = Vec::new();
    for slice in slices_of(service, slices) {
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|known| known.name.as_deref().unwrap_or_default() == port.unwrap_or_default())
            .and_then(|known| known.port);
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
            out.extend(endpoint.addresses.iter().map(|address| (address.clone(), number)));
        }
    }
    out.sort();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_leads_to_ready_pods_and_refuses_when_there_is_none() {
        let services: Vec<Service> = serde_json::from_value(json!([
            {"metadata": {"name": "api", "namespace": "n"}, "spec": {"clusterIP": "10.9.0.1", "ports": [{"name": "http", "port": 80}]}},
            {"metadata": {"name": "none", "namespace": "n"}, "spec": {"clusterIP": "10.9.0.2", "ports": [{"port": 81}]}},
            {"metadata": {"name": "headless", "namespace": "n"}, "spec": {"clusterIP": "None", "ports": [{"port": 82}]}},
        ]))
        .unwrap();
        let slices: Vec<EndpointSlice> = serde_json::from_value(json!([{
            "addressType": "IPv4", "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "api"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.1.0.5"], "conditions": {"ready": true}}, {"addresses": ["10.1.0.6"], "conditions": {"ready": false}},
                {"addresses": ["10.1.0.7"]},
            ],
        }]))
        .unwrap();
        let table = table("edge", "10.1.0.0/16", &services, &slices, "");
        assert!(
            table.contains("dnat to 10.1.0.5:8080") && table.contains("dnat to 10.1.0.7:8080") && !table.contains("10.1.0.6"),
            "{table}"
        );
        assert!(table.contains("ip daddr 10.9.0.1 tcp dport 80 goto s0-0") && table.contains("numgen random mod 2"), "{table}");
        assert!(table.contains("ip daddr 10.9.0.2 tcp dport 81 reject with tcp reset"), "{table}");
        assert!(!table.contains("dport 82"), "{table}");
    }
}

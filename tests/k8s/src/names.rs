//! What names mean in a cluster: Services, pods behind headless Services, and names of the world outside.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The domain of every cluster.
pub const DOMAIN: &str = "cluster.local";

/// The annotation by which external-dns makes records of a Service's address.
pub const RECORD: &str = "external-dns.alpha.kubernetes.io/hostname";

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Addresses(Vec<Ipv4Addr>),
    /// Another name (ExternalName).
    Alias(String),
}

/// All names of a cluster, in lower case and without a final dot.
pub type Names = BTreeMap<String, Target>;

/// Whether an endpoint takes connections.
#[must_use]
pub fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// The slices of a Service.
pub fn slices_of<'a>(service: &'a Service, slices: &'a [EndpointSlice]) -> impl Iterator<Item = &'a EndpointSlice> {
    let name = service.metadata.name.as_deref();
    slices.iter().filter(move |slice| {
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        slice.metadata.namespace == service.metadata.namespace && label.map(String::as_str) == name
    })
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

/// The names that Services give.
#[must_use]
pub fn of_services(services: &[Service], slices: &[EndpointSlice]) -> Names {
    let mut names = Names::new();
    for service in services {
        let (Some(name), Some(namespace), Some(spec)) = (&service.metadata.name, &service.metadata.namespace, &service.spec)
        else {
            continue;
        };
        let full = format!("{name}.{namespace}.svc.{DOMAIN}");
        if spec.type_.as_deref() == Some("ExternalName") {
            let to = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.').to_lowercase();
            names.insert(full, Target::Alias(to));
            continue;
        }
        if spec.cluster_ip.as_deref() != Some("None") {
            names.insert(full, Target::Addresses(addresses(&spec.cluster_ip)));
            continue;
        }
        let mut all = Vec::new();
        for endpoint in
            slices_of(service, slices).flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| is_ready(endpoint))
        {
            let own = addresses(&endpoint.addresses);
            if let Some(hostname) = &endpoint.hostname {
                names.insert(format!("{hostname}.{full}"), Target::Addresses(own.clone()));
            }
            all.extend(own);
        }
        names.insert(full, Target::Addresses(all));
    }
    names
}

/// The names that load balancers have in the world, by external-dns' annotation.
#[must_use]
pub fn of_the_world(services: &[Service]) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let mut names = BTreeMap::new();
    for service in services {
        let wanted = service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(RECORD));
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let own = addresses(
            balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).filter_map(|ingress| ingress.ip.as_ref()),
        );
        if let (Some(wanted), false) = (wanted, own.is_empty()) {
            for name in wanted.split(',') {
                names.insert(name.trim().trim_end_matches('.').to_lowercase(), own.clone());
            }
        }
    }
    names
}

/// The addresses of a name; nothing when there is no such name.
#[must_use]
pub fn resolve(name: &str, cluster: &Names, world: &BTreeMap<String, Vec<Ipv4Addr>>) -> Option<Vec<Ipv4Addr>> {
    let mut name = name.trim_end_matches('.').to_lowercase();
    // An alias of an alias, and so on, but not for ever.
    for _ in 0..8 {
        match cluster.get(&name) {
            Some(Target::Addresses(addresses)) => return Some(addresses.clone()),
            Some(Target::Alias(to)) => name.clone_from(to),
            None => return world.get(&name).cloned(),
        }
    }
    None
}

/// The resolv.conf of a pod.
#[must_use]
pub fn resolv_conf(namespace: &str, server: Ipv4Addr) -> String {
    format!("nameserver {server}\nsearch {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n")
}

/// The hosts file of a pod.
#[must_use]
pub fn hosts(address: Ipv4Addr, hostname: &str, subdomain: Option<(&str, &str)>) -> String {
    let full =
        subdomain.map(|(subdomain, namespace)| format!("{hostname}.{subdomain}.{namespace}.svc.{DOMAIN} ")).unwrap_or_default();
    format!("127.0.0.1 localhost\n{address} {full}{hostname}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(value: serde_json::Value) -> Service {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_service_a_pod_behind_a_headless_one_and_an_alias_have_names() {
        let services = [
            service(json!({"metadata": {"name": "api", "namespace": "n"}, "spec": {"clusterIP": "10.9.0.1"}})),
            service(json!({"metadata": {"name": "db", "namespace": "n"}, "spec": {"clusterIP": "None"}})),
            service(
                json!({"metadata": {"name": "ext", "namespace": "n"}, "spec": {"type": "ExternalName", "externalName": "Redis.example.test."}}),
            ),
        ];
        let slices: Vec<EndpointSlice> = serde_json::from_value(json!([{
            "addressType": "IPv4", "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "db"}},
            "endpoints": [
                {"addresses": ["10.1.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.6"], "hostname": "db-1", "conditions": {"ready": false}},
            ],
        }]))
        .unwrap();
        let names = of_services(&services, &slices);
        let world = BTreeMap::from([("redis.example.test".to_owned(), vec![Ipv4Addr::new(203, 0, 113, 1)])]);
        let find = |name: &str| {
            resolve(name, &names, &world).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(find("API.n.svc.cluster.local.").as_deref(), Some("10.9.0.1"));
        assert_eq!(find("db.n.svc.cluster.local").as_deref(), Some("10.1.0.5"));
        assert_eq!(find("db-0.db.n.svc.cluster.local").as_deref(), Some("10.1.0.5"));
        assert_eq!(find("db-1.db.n.svc.cluster.local"), None, "it is not ready");
        assert_eq!(find("ext.n.svc.cluster.local").as_deref(), Some("203.0.113.1"));
        assert_eq!(find("api.other.svc.cluster.local"), None);
    }

    #[test]
    fn a_load_balancer_has_the_names_of_its_annotation_once_it_has_an_address() {
        let mut one = service(json!({"metadata": {"annotations": {RECORD: "a.example.test, b.example.test"}}}));
        assert!(of_the_world(std::slice::from_ref(&one)).is_empty());
        one.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}]}})).unwrap();
        assert_eq!(of_the_world(&[one]).into_keys().collect::<Vec<_>>(), ["a.example.test", "b.example.test"]);
    }

    #[test]
    fn a_pod_looks_in_its_namespace_first_and_knows_itself() {
        let server = Ipv4Addr::new(10, 9, 0, 10);
        assert!(
            resolv_conf("n", server)
                .contains("nameserver 10.9.0.10\nsearch n.svc.cluster.local svc.cluster.local cluster.local\n")
        );
        let own = hosts(Ipv4Addr::new(10, 1, 0, 5), "db-0", Some(("db", "n")));
        assert_eq!(own, "127.0.0.1 localhost\n10.1.0.5 db-0.db.n.svc.cluster.local db-0\n");
    }
}

//! What clouds bring to a cluster: nodes, addresses of load balancers and their names, volumes for claims.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use test_kubelet::{names, policies, rules};
use tokio::time::sleep;

use crate::network;
use crate::shared::Shared;

/// Registers the nodes, and says again and again that they are well.
pub async fn nodes(shared: Arc<Shared>) -> Result<()> {
    let api: Api<Node> = Api::all(shared.client.clone());
    for (name, node) in &shared.settings.nodes {
        let mut labels = node["labels"].clone();
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/hostname".into(), json!(name));
            labels.insert("kubernetes.io/os".into(), json!("linux"));
            labels.insert("kubernetes.io/arch".into(), json!("amd64"));
        }
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels}, "spec": {"taints": node["taints"]},
        }))?;
        api.create(&PostParams::default(), &node).await.with_context(|| format!("node {name} cannot be registered"))?;
    }
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), "kube-node-lease");
    let begun = Time(Timestamp::now());
    loop {
        for name in shared.settings.nodes.keys() {
            let now = Time(Timestamp::now());
            let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": begun});
            let status = json!({"status": {
                "conditions": [
                    condition("Ready", "True", "KubeletReady"), condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure"), condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                ],
                "addresses": [{"type": "InternalIP", "address": shared.settings.node_ip}, {"type": "Hostname", "address": name}],
                "capacity": {"cpu": "16", "memory": "64Gi", "pods": "110"},
                "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"},
                // Commands by WebSocket.
                "declaredFeatures": ["ExtendWebSocketsToKubelet"],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": shared.settings.port}},
                "nodeInfo": {
                    "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "process://0", "kernelVersion": "", "kubeProxyVersion": "",
                    "kubeletVersion": "v1.36.1", "machineID": "", "operatingSystem": "linux", "osImage": "processes of this machine",
                    "systemUUID": "",
                },
            }});
            if let Err(error) = api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await {
                eprintln!("status of node {name}: {error}");
            }
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": MicroTime(Timestamp::now())},
            });
            if let Err(error) = leases.patch(name, &PatchParams::apply("test-kubelet").force(), &Patch::Apply(lease)).await {
                eprintln!("lease of node {name}: {error}");
            }
        }
        sleep(Duration::from_secs(8)).await;
    }
}

/// Addresses of load balancers, the ways to Services and what policies let through, and names for the other clusters: brought up to date when they change.
pub async fn ways(shared: Arc<Shared>) -> Result<()> {
    let mut known = String::new();
    loop {
        balance(&shared).await;
        let services: Vec<Service> = sorted(shared.services.state());
        let mut slices = owned(shared.slices.state());
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let fresh = (names::of_services(&services, &slices), world(&shared.settings.world));
        if let Ok(mut names) = shared.names.write() {
            *names = fresh;
        }
        let mut pods = owned(shared.pods.state());
        pods.sort_by(|a, b| a.metadata.uid.cmp(&b.metadata.uid));
        let mut policies = owned(shared.policies.state());
        policies.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
        let let_through = policies::chains(&pods, &owned(shared.namespaces.state()), &policies);
        let table = rules::table(&shared.settings.cluster, &shared.settings.pods, &services, &slices, &let_through);
        if table != known {
            network::run("nft", &["-f", "-"], &table).await.with_context(|| format!("refused: {table}"))?;
            let world = serde_json::to_vec(&names::of_the_world(&services))?;
            let path = shared.settings.world.join(&shared.settings.cluster);
            let fresh = path.with_extension("new");
            std::fs::write(&fresh, world)?;
            std::fs::rename(fresh, path)?;
            known = table;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn owned<K: Clone>(objects: Vec<Arc<K>>) -> Vec<K> {
    objects.into_iter().map(|object| (*object).clone()).collect()
}

fn sorted(services: Vec<Arc<Service>>) -> Vec<Service> {
    let mut services = owned(services);
    services.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
    services
}

async fn balance(shared: &Shared) {
    let services = sorted(shared.services.state());
    let address = |service: &Service| -> Option<Ipv4Addr> {
        service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
    };
    let mut taken: Vec<Ipv4Addr> = services.iter().filter_map(&address).collect();
    for service in &services {
        let wants = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
        let (Some(name), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace) else { continue };
        if !wants || address(service).is_some() {
            continue;
        }
        let Some(free) = shared.settings.balancers.iter().find(|ip| !taken.contains(ip)).copied() else {
            eprintln!("service {namespace}/{name}: all addresses of load balancers are taken");
            continue;
        };
        taken.push(free);
        let api: Api<Service> = Api::namespaced(shared.client.clone(), namespace);
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": free}]}}}));
        if let Err(error) = api.patch_status(name, &PatchParams::default(), &patch).await {
            eprintln!("service {namespace}/{name}: {error}");
        }
    }
    // What was given a moment ago is seen by the next round.
    if taken.len() > services.iter().filter_map(address).count() {
        sleep(Duration::from_millis(300)).await;
    }
}

/// Gives each claim a directory as its volume, and takes away those whose claims are gone.
pub async fn volumes(shared: Arc<Shared>) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::all(shared.client.clone());
    let volumes: Api<PersistentVolume> = Api::all(shared.client.clone());
    let _ = claims;
    loop {
        for claim in shared.claims.state() {
            let (Some(spec), Some(uid)) = (&claim.spec, &claim.metadata.uid) else { continue };
            let bound = spec.volume_name.is_some() || claim.metadata.deletion_timestamp.is_some();
            let name = format!("pvc-{uid}");
            if bound || shared.volumes.state().iter().any(|volume| volume.metadata.name.as_deref() == Some(&name)) {
                continue;
            }
            let volume: PersistentVolume = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage").cloned())},
                    "accessModes": spec.access_modes, "persistentVolumeReclaimPolicy": "Retain", "storageClassName": spec.storage_class_name,
                    "hostPath": {"path": shared.settings.run.join("volumes").join(&name)},
                    "claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.metadata.name, "namespace": claim.metadata.namespace,
                        "uid": uid,
                    },
                },
            }))?;
            match volumes.create(&PostParams::default(), &volume).await {
                Ok(_) => {}
                Err(kube::Error::Api(error)) if error.code == 409 => {}
                Err(error) => eprintln!("volume {name}: {error}"),
            }
        }
        for volume in shared.volumes.state() {
            let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
            if let (true, Some(name)) = (released, &volume.metadata.name) {
                // The directory first: what is deleted must be gone.
                let _ = std::fs::remove_dir_all(shared.settings.run.join("volumes").join(name));
                let _ = volumes.delete(name, &DeleteParams::default()).await;
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Finds names: those of the cluster, then those that all clusters have given to the world.
pub fn lookup(shared: Arc<Shared>) -> test_kubelet::dns::Lookup {
    Arc::new(move |name| {
        let names = shared.names.read().ok()?;
        names::resolve(name, &names.0, &names.1)
    })
}

fn world(directory: &std::path::Path) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let mut files: Vec<(SystemTime, Vec<u8>)> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let own = path.extension().is_none();
            Some((own.then(|| path.metadata().ok()?.modified().ok()).flatten()?, std::fs::read(&path).ok()?))
        })
        .collect();
    files.sort();
    files
        .into_iter()
        .filter_map(|(_, bytes)| serde_json::from_slice::<BTreeMap<String, Vec<Ipv4Addr>>>(&bytes).ok())
        .flatten()
        .collect()
}

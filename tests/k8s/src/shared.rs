//! What all parts of the kubelet of a cluster know.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, RwLock};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource as _};
use serde_json::json;
use test_kubelet::env::{Data, Objects};
use test_kubelet::names::Names;

/// What the test says of a cluster: a file of JSON.
#[derive(Debug)]
pub struct Settings {
    pub cluster: String,
    pub kubeconfig: PathBuf,
    /// Everything that is written: volumes, roots, logs, the journal.
    pub run: PathBuf,
    /// Names of the world outside: one file for each cluster.
    pub world: PathBuf,
    /// What is below /usr/local of an image, in a directory of its name.
    pub images: PathBuf,
    /// Pods' addresses, such as 10.1.0.0/16.
    pub pods: String,
    pub dns: Ipv4Addr,
    pub node_ip: Ipv4Addr,
    /// Addresses of load balancers.
    pub balancers: Vec<Ipv4Addr>,
    /// Nodes: labels and taints.
    pub nodes: serde_json::Map<String, serde_json::Value>,
    pub port: u16,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Settings {
    pub fn read(path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
        let value: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{path} is no JSON"))?;
        let text = |key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("{path} has no {key}"));
        let address = |key: &str| -> Result<Ipv4Addr> { text(key)?.parse().with_context(|| format!("{key} is no address")) };
        Ok(Self {
            cluster: text("cluster")?,
            kubeconfig: text("kubeconfig")?.into(),
            run: text("run")?.into(),
            world: text("world")?.into(),
            images: text("images")?.into(),
            pods: text("pods")?,
            dns: address("dns")?,
            node_ip: address("node_ip")?,
            balancers: value["balancers"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
            nodes: value["nodes"].as_object().cloned().unwrap_or_default(),
            port: u16::try_from(value["port"].as_u64().unwrap_or(10250)).context("port is no port")?,
            certificate: text("certificate")?.into(),
            key: text("key")?.into(),
        })
    }
}

pub struct Shared {
    pub settings: Settings,
    pub client: Client,
    pub secrets: Store<Secret>,
    pub maps: Store<ConfigMap>,
    pub claims: Store<PersistentVolumeClaim>,
    pub volumes: Store<PersistentVolume>,
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub pods: Store<Pod>,
    pub namespaces: Store<Namespace>,
    pub policies: Store<NetworkPolicy>,
    /// What DNS answers: made anew when something changes, for questions are many.
    pub names: RwLock<(Names, BTreeMap<String, Vec<Ipv4Addr>>)>,
    pub recorder: Recorder,
    pub journal: Mutex<std::fs::File>,
    pub addresses: Mutex<Addresses>,
    /// Process of each running container, by namespace, pod and container: for `kubectl exec`.
    pub processes: Mutex<BTreeMap<(String, String, String), crate::container::Process>>,
}

/// Addresses of pods; one that was given back is not given again before all others have been.
#[derive(Debug)]
pub struct Addresses {
    first: u32,
    size: u32,
    next: u32,
    taken: BTreeSet<u32>,
}

impl Addresses {
    pub fn of(network: &str) -> Result<Self> {
        let (address, bits) = network.split_once('/').context("the network of pods has no /")?;
        let bits: u32 = bits.parse().context("the network of pods has no length")?;
        let address: Ipv4Addr = address.parse().context("the network of pods has no address")?;
        Ok(Self { first: address.to_bits(), size: 1 << (32 - bits), next: 2, taken: BTreeSet::new() })
    }

    pub fn take(&mut self) -> Result<Ipv4Addr> {
        for _ in 0..self.size {
            let candidate = self.next;
            self.next = if candidate + 2 >= self.size { 2 } else { candidate + 1 };
            if self.taken.insert(candidate) {
                return Ok(Ipv4Addr::from_bits(self.first + candidate));
            }
        }
        bail!("all addresses of pods are taken")
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&(address.to_bits() - self.first));
    }
}

impl Shared {
    /// A line for the report: what a container did, and why.
    pub fn journal(&self, pod: &Pod, container: &str, what: &str, more: serde_json::Value) {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|time| time.as_secs_f64()).unwrap_or_default();
        let mut line = json!({
            "time": now, "cluster": self.settings.cluster, "namespace": pod.metadata.namespace, "pod": pod.metadata.name,
            "container": container, "what": what,
        });
        if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        if let Ok(mut file) = self.journal.lock() {
            // The test reads it; that it cannot be written shows there.
            let _ = writeln!(file, "{line}");
        }
    }

    /// An event of a pod, as `kubectl describe` shows it.
    pub async fn event(&self, pod: &Pod, reason: &str, note: &str) {
        let warning = !matches!(reason, "Started" | "Killing" | "Created");
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(note.into()),
            action: reason.into(),
            secondary: None,
        };
        let reference: ObjectReference = pod.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            eprintln!("event {reason} of {:?}: {error}", pod.metadata.name);
        }
    }

    pub fn objects(&self, namespace: &str) -> InNamespace<'_> {
        InNamespace { shared: self, namespace: namespace.into() }
    }
}

/// Secrets and ConfigMaps of a namespace.
pub struct InNamespace<'a> {
    shared: &'a Shared,
    namespace: String,
}

impl Objects for InNamespace<'_> {
    fn secret(&self, name: &str) -> Option<Data> {
        let secret = self.shared.secrets.get(&ObjectRef::new(name).within(&self.namespace))?;
        Some(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }

    fn config_map(&self, name: &str) -> Option<Data> {
        let map = self.shared.maps.get(&ObjectRef::new(name).within(&self.namespace))?;
        let texts = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        Some(texts.chain(map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()))).collect())
    }
}

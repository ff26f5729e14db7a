//! The life of a pod: address, volumes, containers, what the API server is told of them, and the end.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::future::join_all;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    ServiceAccount, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use serde_json::json;
use test_kubelet::env::Place;
use test_kubelet::names;
use test_kubelet::state;
use test_kubelet::volumes::{self, Files, Source, Tokens};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::shared::Shared;
use crate::{container, network};

/// A pod as long as it is here.
pub struct Life {
    pub shared: Arc<Shared>,
    pod: Mutex<Pod>,
    pub address: Ipv4Addr,
    pub netns: String,
    pub directory: PathBuf,
    pub hostname: String,
    pub hosts: String,
    pub resolv_conf: String,
    /// Set when the pod is to stop: its grace period.
    pub stop: watch::Receiver<Option<Duration>>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    init: Vec<ContainerStatus>,
    containers: Vec<ContainerStatus>,
    conditions: BTreeMap<&'static str, PodCondition>,
    begun: Option<Time>,
    written: BTreeMap<String, Files>,
    tokens: Tokens,
}

/// What is told to a pod that is here.
#[derive(Clone)]
pub enum News {
    Is(Box<Pod>),
    Gone,
}

/// From being scheduled to being deleted.
pub async fn live(shared: Arc<Shared>, pod: Pod, mut news: watch::Receiver<News>) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let (stopper, stop) = watch::channel(None);
    let life = match Life::new(shared.clone(), pod, stop) {
        Ok(life) => Arc::new(life),
        Err(error) => {
            eprintln!("pod {name}: {error:#}");
            return;
        }
    };
    // Everything the pod does, until it has ended; beside it, what the API server says and is told.
    let follow = {
        let life = life.clone();
        tokio::spawn(async move {
            loop {
                let is = news.borrow_and_update().clone();
                match is {
                    News::Is(pod) => {
                        let grace = pod
                            .metadata
                            .deletion_timestamp
                            .is_some()
                            .then(|| pod.metadata.deletion_grace_period_seconds.unwrap_or(30));
                        if let Ok(mut known) = life.pod.lock() {
                            *known = *pod;
                        }
                        if let Some(grace) = grace {
                            stopper.send_replace(Some(Duration::from_secs(u64::try_from(grace).unwrap_or(0))));
                        }
                    }
                    News::Gone => {
                        stopper.send_replace(Some(Duration::ZERO));
                    }
                }
                if news.changed().await.is_err() {
                    // Keeps the sender: the pod is here until it is told to go.
                    stopper.closed().await;
                    return;
                }
            }
        })
    };
    let tell = {
        let life = life.clone();
        tokio::spawn(async move {
            loop {
                life.tell().await;
                life.changed.notified().await;
            }
        })
    };
    let mut stop = life.stop.clone();
    if let Err(error) = life.clone().work().await {
        eprintln!("pod {name}: {error:#}");
        shared.event(&life.pod(), "FailedCreatePodSandBox", &format!("{error:#}")).await;
    }
    tell.abort();
    life.tell().await;
    // A pod that has done its work stays until it is deleted.
    let _ = stop.wait_for(Option::is_some).await;
    life.leave().await;
    follow.abort();
}

impl Life {
    fn new(shared: Arc<Shared>, pod: Pod, stop: watch::Receiver<Option<Duration>>) -> Result<Self> {
        let address = shared.addresses.lock().map_err(|_| anyhow!("a task has panicked"))?.take()?;
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let uid = pod.metadata.uid.clone().context("a pod without uid")?;
        let hostname = spec.hostname.clone().or(pod.metadata.name.clone()).unwrap_or_default();
        let hosts = names::hosts(address, &hostname, spec.subdomain.as_deref().map(|subdomain| (subdomain, namespace.as_str())));
        let resolv_conf = names::resolv_conf(&namespace, shared.settings.dns);
        let blank = |containers: &[Container]| {
            containers
                .iter()
                .map(|container| ContainerStatus {
                    name: container.name.clone(),
                    image: container.image.clone().unwrap_or_default(),
                    state: Some(state::waiting("ContainerCreating", "")),
                    started: Some(false),
                    ..ContainerStatus::default()
                })
                .collect::<Vec<_>>()
        };
        let state = State {
            init: blank(spec.init_containers.as_deref().unwrap_or_default()),
            containers: blank(&spec.containers),
            begun: Some(Time(Timestamp::now())),
            ..State::default()
        };
        Ok(Self {
            address,
            netns: format!("{}-{:08x}", shared.settings.cluster, address.to_bits()),
            directory: shared.settings.run.join("pods").join(uid),
            hostname,
            hosts,
            resolv_conf,
            stop,
            state: Mutex::new(state),
            changed: Notify::new(),
            pod: Mutex::new(pod),
            shared,
        })
    }

    pub fn pod(&self) -> Pod {
        self.pod.lock().map(|pod| pod.clone()).unwrap_or_default()
    }

    pub fn place(&self) -> Place {
        Place { pod_ip: self.address.to_string(), host_ip: self.shared.settings.node_ip.to_string() }
    }

    pub fn key(&self, container: &str) -> (String, String, String) {
        let pod = self.pod();
        (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default(), container.to_owned())
    }

    /// The file that a container's output goes into.
    pub fn log(&self, container: &str) -> PathBuf {
        let (namespace, pod, container) = self.key(container);
        let uid = self.directory.file_name().map(|uid| uid.to_string_lossy().into_owned()).unwrap_or_default();
        self.shared.settings.run.join("logs").join(format!("{namespace}_{pod}_{container}_{}.log", &uid[..uid.len().min(8)]))
    }

    /// Volumes, init containers one after the other, containers all at once.
    async fn work(self: Arc<Self>) -> Result<()> {
        network::up(&self.netns, self.address).await?;
        let pod = self.pod();
        let spec = pod.spec.clone().unwrap_or_default();
        self.ask_for_tokens(&pod).await?;
        let mut stop = self.stop.clone();
        loop {
            match self.fill(&spec.volumes.clone().unwrap_or_default()) {
                Ok(()) => break,
                Err(message) => {
                    self.shared.event(&pod, "FailedMount", &message).await;
                    container::wait(&mut stop, Duration::from_secs(2)).await;
                    if stop.borrow().is_some() {
                        return Ok(());
                    }
                }
            }
        }
        let refresh = {
            let life = self.clone();
            let volumes = spec.volumes.clone().unwrap_or_default();
            tokio::spawn(async move {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    if let Err(message) = life.fill(&volumes) {
                        // As with the real one, the files stay as they are.
                        life.shared.event(&life.pod(), "FailedMount", &message).await;
                        sleep(Duration::from_secs(10)).await;
                    }
                }
            })
        };
        let mut well = true;
        for init in spec.init_containers.into_iter().flatten() {
            well = well && container::run(self.clone(), init, true).await;
        }
        if well {
            join_all(spec.containers.into_iter().map(|own| container::run(self.clone(), own, false))).await;
        }
        refresh.abort();
        Ok(())
    }

    /// Tokens of the pod's ServiceAccount, for its projected volumes. They outlive any test: none is asked for again.
    async fn ask_for_tokens(&self, pod: &Pod) -> Result<()> {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.shared.client.clone(), namespace);
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        for volume in spec.volumes.iter().flatten() {
            let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
            for wanted in sources.into_iter().flatten().filter_map(|part| part.service_account_token.as_ref()) {
                let request: TokenRequest = serde_json::from_value(json!({
                    "spec": {
                        "audiences": wanted.audience.iter().collect::<Vec<_>>(), "expirationSeconds": 86400,
                        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid},
                    },
                }))?;
                let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
                let token = made.status.and_then(|status| status.token).unwrap_or_default();
                if let Ok(mut state) = self.state.lock() {
                    state.tokens.insert((volume.name.clone(), wanted.path.clone()), token);
                }
            }
        }
        Ok(())
    }

    /// Where a volume is.
    pub fn volume(&self, name: &str) -> Result<PathBuf> {
        let pod = self.pod();
        let spec = pod.spec.as_ref().context("a pod without spec")?;
        let volume = spec
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == name)
            .with_context(|| format!("there is no volume {name}"))?;
        self.place_of(&pod, volume).map_err(anyhow::Error::msg)
    }

    fn place_of(&self, pod: &Pod, volume: &Volume) -> Result<PathBuf, String> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if let Some(host) = &volume.host_path {
            return Ok(self.shared.settings.run.join("nodes").join(node).join(host.path.trim_start_matches('/')));
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let found = self.shared.claims.get(&ObjectRef::new(&claim.claim_name).within(namespace));
            let bound = found.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
            let bound = bound.ok_or_else(|| format!("claim {} is not bound", claim.claim_name))?;
            return Ok(self.shared.settings.run.join("volumes").join(bound));
        }
        Ok(self.directory.join("volumes").join(&volume.name))
    }

    /// Brings volumes to what they should hold now.
    fn fill(&self, wanted: &[Volume]) -> Result<(), String> {
        let pod = self.pod();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let group = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.as_ref()?.fs_group)
            .and_then(|group| u32::try_from(group).ok());
        let tokens = self.state.lock().map(|state| state.tokens.clone()).unwrap_or_default();
        for volume in wanted {
            let say =
                |error: &dyn std::fmt::Display| format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name);
            let source = volumes::source(&pod, volume, &self.place(), &self.shared.objects(namespace), &tokens)
                .map_err(|error| say(&error))?;
            let directory = self.place_of(&pod, volume).map_err(|error| say(&error))?;
            match source {
                Source::Files(files) => {
                    let mut state = self.state.lock().map_err(|error| say(&error))?;
                    if state.written.get(&volume.name) != Some(&files) {
                        fs::create_dir_all(&directory).map_err(|error| say(&error))?;
                        volumes::write(&directory, &files, group).map_err(|error| say(&error))?;
                        state.written.insert(volume.name.clone(), files);
                    }
                }
                Source::Empty { memory } => {
                    if directory.exists() {
                        continue;
                    }
                    fs::create_dir_all(&directory).map_err(|error| say(&error))?;
                    if memory {
                        let path = directory.to_string_lossy();
                        let mounted = std::process::Command::new("/bin/mount").args(["-t", "tmpfs", "tmpfs", &path]).status();
                        if !mounted.is_ok_and(|status| status.success()) {
                            return Err(say(&"tmpfs cannot be mounted"));
                        }
                    }
                    give(&directory, group, 0o777).map_err(|error| say(&error))?;
                }
                Source::Node { path, must_exist } => {
                    if !directory.is_dir() {
                        if must_exist {
                            return Err(say(&format!("hostPath type check failed: {} is not a directory", path.display())));
                        }
                        fs::create_dir_all(&directory).map_err(|error| say(&error))?;
                    }
                }
                Source::Claim(_) => {
                    if !directory.exists() {
                        fs::create_dir_all(&directory).map_err(|error| say(&error))?;
                        give(&directory, group, 0o755).map_err(|error| say(&error))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        if let Ok(mut state) = self.state.lock() {
            let State { init, containers, .. } = &mut *state;
            if let Some(status) = init.iter_mut().chain(containers).find(|status| status.name == name) {
                change(status);
            }
        }
        self.changed.notify_one();
    }

    pub fn waits(&self, name: &str, _init: bool, reason: &str, message: &str) {
        self.change(name, |status| {
            let former = status.state.take().filter(|state| state.terminated.is_some());
            if former.is_some() {
                status.last_state = former;
            }
            status.state = Some(state::waiting(reason, message));
            status.ready = false;
            status.started = Some(false);
        });
    }

    pub fn runs(&self, container: &Container, init: bool, at: &Time) {
        self.change(&container.name, |status| {
            status.state = Some(container::running(at));
            status.started = Some(container.startup_probe.is_none());
            status.ready = !init && container.readiness_probe.is_none() && container.startup_probe.is_none();
            status.container_id = Some(format!("process://{}", container.name));
        });
    }

    pub fn ended(&self, name: &str, init: bool, end: ContainerStateTerminated) {
        self.change(name, |status| {
            status.ready = init && end.exit_code == 0;
            status.started = Some(false);
            status.state = Some(ContainerState { terminated: Some(end), ..ContainerState::default() });
        });
    }

    pub fn restarted(&self, name: &str, _init: bool) {
        self.change(name, |status| status.restart_count += 1);
    }

    pub fn started(&self, name: &str) {
        self.change(name, |status| status.started = Some(true));
    }

    pub fn unready(&self, name: &str) {
        self.ready(name, false);
    }

    pub fn ready(&self, name: &str, ready: bool) {
        let differs = self
            .state
            .lock()
            .is_ok_and(|state| state.containers.iter().any(|status| status.name == name && status.ready != ready));
        if differs {
            self.change(name, |status| status.ready = ready);
        }
    }

    /// What the API server is to know.
    fn status(&self) -> Option<PodStatus> {
        let pod = self.pod();
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.clone()).unwrap_or_else(|| "Always".into());
        let mut state = self.state.lock().ok()?;
        let phase = state::phase(&policy, &state.init, &state.containers);
        let initialized = state.init.iter().all(|status| status.ready);
        let ready = phase == "Running" && state.containers.iter().all(|status| status.ready);
        let reason = (phase == "Succeeded").then(|| "PodCompleted".to_owned());
        for (kind, good) in [("PodScheduled", true), ("Initialized", initialized), ("ContainersReady", ready), ("Ready", ready)] {
            let text = if good { "True" } else { "False" };
            if state.conditions.get(kind).is_none_or(|condition| condition.status != text) {
                let condition = PodCondition {
                    type_: kind.into(),
                    status: text.into(),
                    last_transition_time: Some(Time(Timestamp::now())),
                    reason: if good { None } else { reason.clone().or_else(|| Some("ContainersNotReady".into())) },
                    ..PodCondition::default()
                };
                state.conditions.insert(kind, condition);
            }
        }
        let node_ip = self.shared.settings.node_ip.to_string();
        Some(PodStatus {
            phase: Some(phase.into()),
            conditions: Some(state.conditions.values().cloned().collect()),
            init_container_statuses: (!state.init.is_empty()).then(|| state.init.clone()),
            container_statuses: Some(state.containers.clone()),
            pod_ip: Some(self.address.to_string()),
            pod_ips: Some(vec![PodIP { ip: self.address.to_string() }]),
            host_ip: Some(node_ip.clone()),
            host_ips: Some(vec![HostIP { ip: node_ip }]),
            start_time: state.begun.clone(),
            ..PodStatus::default()
        })
    }

    async fn tell(&self) {
        let pod = self.pod();
        let (Some(name), Some(namespace), Some(status)) = (&pod.metadata.name, &pod.metadata.namespace, self.status()) else {
            return;
        };
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
        for _ in 0..20 {
            match api.patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => return,
                // It is gone, or another has its name.
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => return,
                Err(error) => {
                    eprintln!("status of {namespace}/{name}: {error}");
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// Deletes the pod for good, and all that was made for it.
    async fn leave(&self) {
        let pod = self.pod();
        network::down(&self.netns, self.address).await;
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref() == Some("Memory")) {
                let path = self.directory.join("volumes").join(&volume.name);
                let _ = network::run("/bin/umount", &["--lazy", &path.to_string_lossy()], "").await;
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("{}: {error}", self.directory.display());
        }
        if let Ok(mut addresses) = self.shared.addresses.lock() {
            addresses.give_back(self.address);
        }
        let (Some(name), Some(namespace)) = (&pod.metadata.name, &pod.metadata.namespace) else { return };
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        for _ in 0..20 {
            match api.delete(name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => return,
                Err(error) => {
                    eprintln!("deletion of {namespace}/{name}: {error}");
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }
}

/// Lets the pod's group use a directory.
fn give(directory: &Path, group: Option<u32>, mode: u32) -> std::io::Result<()> {
    let Some(group) = group else { return fs::set_permissions(directory, fs::Permissions::from_mode(mode)) };
    chown(directory, None, Some(group))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o2770 | mode))
}

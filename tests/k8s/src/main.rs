//! `test-kubelet SETTINGS`: everything of a cluster but the control plane, for the pods of its API server.

mod cloud;
mod container;
mod network;
mod pod;
mod server;
mod shared;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{Lookup, Store, reflector, store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::pod::News;
use crate::shared::{Addresses, Settings, Shared};

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(run());
    // Tasks that still run must not hold the end back.
    runtime.shutdown_background();
    result
}

/// Runs until something fails.
async fn run() -> Result<()> {
    let settings = std::env::args().nth(1).context("usage: test-kubelet SETTINGS.json")?;
    let settings = Settings::read(&settings)?;
    let config = kube::config::Kubeconfig::read_from(&settings.kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
    // Watches are open for minutes.
    config.read_timeout = None;
    let client = Client::try_from(config)?;
    let reporter = Reporter { controller: "kubelet".into(), instance: Some(settings.cluster.clone()) };
    for directory in ["pods", "logs", "nodes", "volumes"] {
        std::fs::create_dir_all(settings.run.join(directory))?;
    }
    let journal = std::fs::OpenOptions::new().create(true).append(true).open(settings.run.join("journal"))?;
    let shared = Arc::new(Shared {
        secrets: follow(&client),
        maps: follow(&client),
        claims: follow(&client),
        volumes: follow(&client),
        services: follow(&client),
        slices: follow(&client),
        pods: follow(&client),
        namespaces: follow(&client),
        policies: follow(&client),
        names: std::sync::RwLock::default(),
        recorder: Recorder::new(client.clone(), reporter),
        journal: Mutex::new(journal),
        addresses: Mutex::new(Addresses::of(&settings.pods)?),
        processes: Mutex::default(),
        client: client.clone(),
        settings,
    });
    let dns = test_kubelet::dns::serve((shared.settings.dns, 53).into(), cloud::lookup(shared.clone()));
    tokio::select! {
        result = dns => result.context("DNS"),
        result = cloud::nodes(shared.clone()) => result.context("nodes"),
        result = cloud::ways(shared.clone()) => result.context("ways"),
        result = cloud::volumes(shared.clone()) => result.context("volumes"),
        result = server::serve(shared.clone()) => result.context("server"),
        result = pods(shared.clone()) => result.context("pods"),
    }
}

/// Keeps a copy of all objects of a kind.
fn follow<K>(client: &Client) -> Store<K>
where
    K: Resource + Lookup + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    <K as Resource>::DynamicType: Default + Eq + std::hash::Hash + Clone,
    <K as Lookup>::DynamicType: Default + Eq + std::hash::Hash + Clone + Send + Sync,
{
    let (reader, writer) = store();
    let stream = reflector(writer, watcher::watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff());
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            if let Err(error) = event {
                eprintln!("watch: {error}");
            }
        }
    });
    reader
}

/// Gives each pod that is on one of the nodes a task of its own, and tells it what changes.
async fn pods(shared: Arc<Shared>) -> Result<()> {
    let mut tasks: HashMap<String, watch::Sender<News>> = HashMap::new();
    let api: Api<Pod> = Api::all(shared.client.clone());
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let Some(uid) = pod.metadata.uid.clone() else { continue };
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
                if !shared.settings.nodes.contains_key(&node) {
                    continue;
                }
                if let Some(task) = tasks.get(&uid) {
                    task.send_replace(News::Is(Box::new(pod)));
                } else {
                    let (sender, receiver) = watch::channel(News::Is(Box::new(pod.clone())));
                    tasks.insert(uid, sender);
                    tokio::spawn(pod::live(shared.clone(), pod, receiver));
                }
            }
            Ok(Event::Delete(pod)) => {
                if let Some(task) = tasks.remove(pod.metadata.uid.as_deref().unwrap_or_default()) {
                    task.send_replace(News::Gone);
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => eprintln!("watch of pods: {error}"),
        }
    }
    Ok(())
}

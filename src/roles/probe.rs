//! `telemetry probe`: the way to Redis, gone again and again as if for the first time; how long each part takes is on /metrics.

use std::sync::Arc;
use std::time::Duration;

use super::link;
use crate::config::Config;
use crate::runtime::observe::{self, Component, ProbeStep};
use crate::runtime::{Exit, Lifecycle};
use crate::transport::redis::{Probed, RedisTransport};
use crate::transport::{Publisher, TransportError};

/// What latencies to Redis call the other side.
const TARGET: &str = "redis";

/// Runs the role.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    let redis = config.redis()?;
    let Some(queue) = link::connect(&lifecycle, || RedisTransport::connect(&redis)).await? else { return Ok(Exit::Done) };
    let line = queue.clone();
    link::heartbeat(&lifecycle, &config.cluster, Component::Probe, move || {
        let line = line.clone();
        async move { Publisher::ping(&*line).await }
    });
    link::measure(&lifecycle, &queue);
    tracing::info!(every = ?config.probe.interval, "probing Redis");
    let mut said = false;
    loop {
        match queue.probe().await {
            Ok(nodes) => {
                let mut failed = None;
                for (address, probed) in nodes {
                    match probed {
                        Ok(probed) => record(&config.cluster, &probed),
                        Err(error) => {
                            observe::probe_failed(&address.to_string());
                            failed = Some(error);
                        }
                    }
                }
                said = say(failed.as_ref(), said);
            }
            Err(error) => said = say(Some(&error), said),
        }
        tokio::select! {
            () = tokio::time::sleep(config.probe.interval) => {}
            () = lifecycle.draining().cancelled_owned() => return Ok(Exit::Done),
        }
    }
}

/// A failure is said once, and that it is over.
fn say(failed: Option<&TransportError>, said: bool) -> bool {
    match (failed, said) {
        (Some(error), false) => tracing::warn!("the way to Redis does not work: {error}"),
        (None, true) => tracing::info!("the way to Redis works again"),
        _ => {}
    }
    failed.is_some()
}

fn record(cluster: &str, probed: &Probed) {
    let node = probed.address.to_string();
    let reached = &probed.reached;
    observe::probe_step(ProbeStep::Resolve, &node, reached.resolve);
    observe::probe_step(ProbeStep::Connect, &node, reached.connect);
    if let Some(handshake) = reached.handshake {
        observe::probe_step(ProbeStep::Tls, &node, handshake);
    }
    observe::probe_step(ProbeStep::RoundTrip, &node, probed.round_trip);
    observe::clock_ahead(&node, probed.clock_ahead);
    // Half of the way there and back: what the clocks say of one way is no better known than that.
    let one_way: Duration = probed.round_trip / 2;
    observe::latency(cluster, TARGET, Component::Probe, one_way.as_secs_f64());
}

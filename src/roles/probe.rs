//! `telemetry probe`: opens a new connection to every node of Redis at an interval, and records how long each step takes in /metrics.

use std::sync::Arc;
use std::time::Duration;

use super::link;
use crate::config::Config;
use crate::runtime::observe::{self, Component, ProbeStep};
use crate::runtime::{Exit, Lifecycle};
use crate::transport::redis::{Probed, RedisTransport};
use crate::transport::{Publisher, TransportError};

/// The label `target_cluster` of latencies to Redis.
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
    let mut reported = false;
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
                reported = report(failed.as_ref(), reported);
            }
            Err(error) => reported = report(Some(&error), reported),
        }
        tokio::select! {
            () = tokio::time::sleep(config.probe.interval) => {}
            () = lifecycle.draining().cancelled_owned() => return Ok(Exit::Done),
        }
    }
}

/// Logs when probes begin to fail, and when they succeed again. Returns whether a failure has been reported.
fn report(failed: Option<&TransportError>, reported: bool) -> bool {
    match (failed, reported) {
        (Some(error), false) => tracing::warn!("a probe of Redis failed: {error}"),
        (None, true) => tracing::info!("probes of Redis succeed again"),
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
    // Half a round trip: a difference of clocks would not be known more exactly than that.
    let one_way: Duration = probed.round_trip / 2;
    observe::latency(cluster, TARGET, Component::Probe, one_way.as_secs_f64());
}

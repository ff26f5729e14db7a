//! SIGTERM and SIGINT: the first drains; the second, or the deadline, forces the shutdown.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Lifecycle;

/// Handles signals from now on.
pub(super) fn watch(lifecycle: &Lifecycle, deadline: Duration) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let lifecycle = lifecycle.clone();
    // Not a task of the lifecycle: it must outlive them to receive the second signal.
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        let shown = humantime::format_duration(deadline).to_string();
        tracing::info!(
            signal = name,
            deadline = shown,
            "draining: finishing work in flight; a second signal ends the process at once"
        );
        lifecycle.drain();
        tokio::select! {
            _ = either(&mut terminate, &mut interrupt) => lifecycle.force_stop("a second signal"),
            () = tokio::time::sleep(deadline) => lifecycle.force_stop("the deadline (shutdown.deadline) has passed"),
        }
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

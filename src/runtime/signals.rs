//! SIGTERM and SIGINT: the first drains, the second or the deadline ends hard.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Lifecycle;

/// Watches from now on.
pub(super) fn watch(lifecycle: &Lifecycle, deadline: Duration) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let lifecycle = lifecycle.clone();
    // Not one of the lifecycle's tasks: it must outlive them to hear the second signal.
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        let shown = humantime::format_duration(deadline).to_string();
        tracing::info!(signal = name, deadline = shown, "draining: finishing what is in flight; a second signal ends at once");
        lifecycle.drain();
        tokio::select! {
            _ = either(&mut terminate, &mut interrupt) => lifecycle.stop_hard("a second signal"),
            () = tokio::time::sleep(deadline) => lifecycle.stop_hard("the deadline (shutdown.deadline) has passed"),
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

//! Logs on stderr, beside the progress bar; the panic hook.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Format, Log};

/// stderr, shared by log lines and the progress bar: a line moves the bar out of its way.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<Mutex<Option<ProgressBar>>>);

impl Console {
    pub(super) fn show(&self, bar: Option<ProgressBar>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }
}

impl Write for Console {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bar = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A closed stderr must not end a process that works.
        let print = || io::stderr().write_all(line).or(Ok(()));
        bar.map_or_else(print, |bar| bar.suspend(print)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Logging and the panic hook; once a process.
pub(super) fn init(log: &Log, console: Console) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives(&log.level)).context("log.level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(console);
    let done = match log.format {
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        Format::Text => {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            builder.with_ansi(io::stderr().is_terminal() && !plain).try_init()
        }
    };
    done.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::error!(place, "internal error (panic): {}", text.unwrap_or("no message").replace('\n', " "));
    }));
    Ok(())
}

/// A bare level is ours; libraries say only what they warn of, unless asked by name.
fn directives(level: &str) -> String {
    let bare = !level.contains(['=', ',']);
    match level.to_ascii_lowercase().as_str() {
        "info" | "debug" | "trace" if bare => format!("warn,fred=off,telemetry={level}"),
        _ => level.to_owned(),
    }
}

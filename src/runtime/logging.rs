//! Logging to stderr, together with the progress bar; the panic hook.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use indicatif::ProgressBar;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use crate::config::{Log, LogFormat};
use crate::printable;

/// Maximum number of log lines that are kept while they are held back; older ones are dropped.
const MAX_HELD_LINES: usize = 100;

/// stderr, shared by log lines and the progress bar: the bar is moved below each new line. While a [`HeldLog`] exists, lines are held
/// back.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    bar: Option<ProgressBar>,
    held: Option<VecDeque<Vec<u8>>>,
}

impl Console {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&self, bar: Option<ProgressBar>) {
        self.shown().bar = bar;
    }

    /// Holds log lines back from now on. Where stderr is not a terminal, they are written as before.
    pub(super) fn hold(&self) -> HeldLog {
        if io::stderr().is_terminal() {
            self.shown().held.get_or_insert_default();
        }
        HeldLog(self.clone())
    }
}

/// Holds log lines back while it exists; they are printed when it is dropped.
#[derive(Debug)]
pub struct HeldLog(Console);

impl HeldLog {
    /// The last line that was held back, without colours.
    #[must_use]
    pub fn last_line(&self) -> Option<String> {
        let shown = self.0.shown();
        let line = String::from_utf8_lossy(shown.held.as_ref()?.back()?);
        // A colour is `ESC [ … m`.
        let mut parts = line.split('\u{1b}');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        plain.extend(parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)));
        Some(plain.trim_end().to_owned())
    }
}

impl Drop for HeldLog {
    fn drop(&mut self) {
        let held = self.0.shown().held.take();
        for line in held.into_iter().flatten() {
            // A closed stderr is not a reason to end the process.
            let _ = io::stderr().write_all(&line);
        }
    }
}

impl Write for Console {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bar = {
            let mut shown = self.shown();
            if let Some(held) = &mut shown.held {
                if held.len() == MAX_HELD_LINES {
                    held.pop_front();
                }
                held.push_back(line.to_vec());
                return Ok(line.len());
            }
            shown.bar.clone()
        };
        // A closed stderr is not a reason to end the process.
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

/// Sets up logging and the panic hook, once per process.
pub(super) fn init(log: &Log, console: Console) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives(&log.level)).context("log.level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(console);
    let done = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            builder.with_ansi(io::stderr().is_terminal() && !plain).fmt_fields(PrintableFields).try_init()
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

/// Formats the fields of a text line. Terminal control sequences and line breaks are escaped, because values come from files and from
/// other clusters, and an event must stay one line.
struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = FieldLine { text: String::new(), colours: writer.has_ansi_escapes() };
        fields.record(&mut line);
        writer.write_str(&line.text)
    }
}

/// Collects `message name=value name=value`.
struct FieldLine {
    text: String,
    colours: bool,
}

impl Visit for FieldLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let shown = format!("{value:?}");
        let shown = printable::line(&shown);
        let separator = if self.text.is_empty() { "" } else { " " };
        let written = match field.name() {
            "message" => write!(self.text, "{separator}{shown}"),
            // The colours of tracing-subscriber's own format: the name in italics, the equals sign dimmed.
            name if self.colours => write!(self.text, "{separator}\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{shown}"),
            name => write!(self.text, "{separator}{name}={shown}"),
        };
        // Writing to a String cannot fail.
        written.unwrap_or_default();
    }
}

/// The directives of a level. A bare level applies to this program; libraries log from `warn` up, unless the level names them.
fn directives(level: &str) -> String {
    let bare = !level.contains(['=', ',']);
    match level.to_ascii_lowercase().as_str() {
        "warn" | "info" | "debug" | "trace" if bare => format!("warn,fred=off,telemetry={level}"),
        _ => level.to_owned(),
    }
}

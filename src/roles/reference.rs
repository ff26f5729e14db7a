//! `telemetry reference DIR` (hidden): writes docs/reference from the code. A test fails where the two differ.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;
use crate::config::{self, WELL_KNOWN};
use crate::runtime::{Exit, observe};

/// Writes the documents.
pub fn run(directory: &Path) -> anyhow::Result<Exit> {
    std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be created", directory.display()))?;
    for (name, text) in documents() {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(Exit::Done)
}

/// The names and contents of the documents.
#[must_use]
pub fn documents() -> Vec<(&'static str, String)> {
    vec![("configuration.md", configuration()), ("cli.md", commands()), ("metrics.md", metrics())]
}

const NOTE: &str = "<!-- Written by `make reference` from the code: change it there. -->\n";

/// Writing to a `String` cannot fail.
macro_rules! line {
    ($out:expr $(, $($arg:tt)*)?) => { let _ = writeln!($out $(, $($arg)*)?); };
}

fn configuration() -> String {
    let mut out = String::new();
    line!(out, "# Configuration\n\n{NOTE}");
    line!(
        out,
        "Defaults < `--config` files (TOML, the later one wins) < environment < flags, key by key. `telemetry config show` prints"
    );
    line!(
        out,
        "the values in effect and where each one came from, `telemetry config check` checks whether the configuration is valid, and"
    );
    line!(
        out,
        "`telemetry config schema` prints the JSON Schema. Unknown keys and variables are refused. An empty variable counts as unset.\n"
    );
    line!(
        out,
        "Durations are written \"250ms\", \"5s\", \"1m 30s\"; sizes \"512KiB\", \"1MiB\", or a number of bytes. Lists in a variable are"
    );
    line!(out, "written `a,b` or `[\"a\", \"b\"]`.\n");
    let mut section = None;
    for key in config::keys() {
        let (inside, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        if section.as_deref() != Some(inside) {
            section = Some(inside.to_owned());
            let title = if inside.is_empty() { "Top level".to_owned() } else { format!("[{inside}]") };
            line!(out, "\n## {title}\n\n| key | type | default | variable | description |\n|---|---|---|---|---|");
        }
        let default = key.default.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"));
        let known = WELL_KNOWN.iter().find(|(_, path)| *path == key.path);
        let variable = known.map_or_else(String::new, |(name, _)| format!("`{name}`, "));
        let (kind, own, text) = (key.kind.name(), key.variable(), cell(&key.description));
        line!(out, "| `{name}` | {kind} | {default} | {variable}`{own}` | {text} |");
    }
    out
}

fn commands() -> String {
    let mut out = String::new();
    line!(out, "# Commands\n\n{NOTE}");
    let mut root = Cli::command().term_width(100);
    root.build();
    command(&mut out, &mut root, "telemetry", 2);
    out
}

fn command(out: &mut String, command_: &mut clap::Command, path: &str, depth: usize) {
    let help = command_.render_long_help().to_string();
    line!(out, "{} {path}\n\n```text", "#".repeat(depth));
    for text in help.trim_end().lines() {
        line!(out, "{}", text.trim_end());
    }
    line!(out, "```\n");
    let inner = command_.get_subcommands_mut().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
    for inner in inner {
        let path = format!("{path} {}", inner.get_name());
        command(out, inner, &path, depth + 1);
    }
}

fn metrics() -> String {
    let mut out = String::new();
    line!(out, "# Metrics\n\n{NOTE}");
    line!(
        out,
        "Served in the Prometheus text format at /metrics on `admin.listen`. Counters start at 0 when the process starts.\n"
    );
    line!(out, "| metric | kind | unit | labels | description |\n|---|---|---|---|---|");
    for metric in observe::METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, unit) = (metric.name, metric.kind.name(), metric.unit.as_str());
        line!(out, "| `{name}` | {kind} | {unit} | {} | {} |", labels.join(", "), cell(metric.help));
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

//! One file or folder per command. Roles combine the other rooms; the queue and the store are used together only here.

pub mod all;
pub mod audit;
mod certificates;
pub mod check;
pub mod collect;
pub mod compact;
pub mod completions;
pub mod config;
pub mod dead_letters;
pub mod demo;
pub mod generate;
pub mod groups;
mod link;
pub mod migrate;
pub mod probe;
pub mod reference;
pub mod replay;
mod retention;
mod say;
pub mod serve;
pub mod stream;
mod table;
pub mod top;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::config::{self as settings, Config, ConfigError, LogFormat, Origin, Postgres};
use crate::printable;
use crate::runtime::{self, Exit, Lifecycle};
use crate::store::StoreError;
use crate::transport::TransportError;

/// Runs the command of a command line; `variables` is the environment. Errors are printed here, once.
pub fn dispatch(cli: Cli, variables: impl IntoIterator<Item = (OsString, OsString)>) -> ExitCode {
    let variables: Vec<_> = variables.into_iter().collect();
    // Until the configuration is loaded: what the flag or the variable says.
    let asked = cli.global.log_format.clone().or_else(|| {
        let variable = variables.iter().find(|(name, _)| *name == "TELEMETRY__LOG__FORMAT");
        variable.map(|(_, value)| value.to_string_lossy().into_owned())
    });
    let mut format = if asked.as_deref() == Some("json") { LogFormat::Json } else { LogFormat::Text };
    let ended = execute(cli, variables, &mut format).map_err(refusal_as_configuration_error);
    runtime::report(&ended, format)
}

/// Turns a refusal by Redis or PostgreSQL (a password, a permission, another number of partitions, a newer schema) into a
/// configuration error, because waiting does not help.
fn refusal_as_configuration_error(error: anyhow::Error) -> anyhow::Error {
    let by_queue = error.chain().filter_map(|cause| cause.downcast_ref::<TransportError>());
    let by_store = error.chain().filter_map(|cause| cause.downcast_ref::<StoreError>());
    let refused = by_queue.into_iter().any(|e| matches!(e, TransportError::Refused { .. } | TransportError::Mismatch(_)))
        || by_store.into_iter().any(|e| matches!(e, StoreError::Refused { .. } | StoreError::Version(_)));
    if refused { ConfigError::usage(format!("{error:#}")).into() } else { error }
}

/// `format` becomes the one that is configured, as soon as it is known.
fn execute(cli: Cli, variables: Vec<(OsString, OsString)>, format: &mut LogFormat) -> anyhow::Result<Exit> {
    // These commands need no configuration, and work with a broken one.
    match &cli.command {
        Command::Completions { shell } => return completions::run(*shell),
        Command::Generate(generate) => return generate::run(generate),
        Command::Demo(demo) => return demo::run(demo),
        Command::Reference { directory } => return reference::run(directory),
        Command::Config(crate::cli::ConfigCommand::Schema) => return config::schema(),
        _ => {}
    }
    let mut config = settings::load(&cli.global.config, variables, &cli.flags())?;
    *format = config.log.format;
    // Log lines about the connection only disturb the answer.
    if cli.command.prints_an_answer() && *config.origin("log.level") == Origin::Default {
        config.log.level = "warn".to_owned();
    }
    let config = Arc::new(config);
    match cli.command {
        Command::Stream(_) => {
            let endless = config.stream.follow || config.stream.looped;
            role(&config, "stream", endless, stream::run)
        }
        Command::Collect(_) => role(&config, "collect", true, collect::run),
        Command::Serve(_) => role(&config, "serve", true, serve::run),
        Command::All(_) => role(&config, "all", true, all::run),
        Command::Probe(_) => role(&config, "probe", true, probe::run),
        Command::Check(what) => once(&config, "check", move |config, _| check::run(config, what)),
        Command::Migrate(what) => once(&config, "migrate", move |config, life| migrate::run(config, what, life)),
        Command::Compact(what) => once(&config, "compact", move |config, life| compact::run(config, life, what)),
        Command::Audit(audit) => once(&config, "audit", move |config, life| audit::run(config, life, audit)),
        Command::DeadLetters(what) => once(&config, "dead-letters", move |config, life| dead_letters::run(config, life, what)),
        Command::Groups(what) => once(&config, "groups", move |config, life| groups::run(config, life, what)),
        Command::Top(what) => once(&config, "top", move |config, life| top::run(config, life, what)),
        Command::Replay(what) => once(&config, "replay", move |config, life| replay::run(config, life, what)),
        Command::Config(what) => config::run(what, &config, &cli.global.config),
        Command::Generate(_) | Command::Demo(_) | Command::Completions { .. } | Command::Reference { .. } => Ok(Exit::Done),
    }
}

/// Runs a role with an admin server: always if it runs until it is stopped, else only where `admin.listen` is set.
fn role<F, Fut>(config: &Arc<Config>, name: &'static str, long_running: bool, body: F) -> anyhow::Result<Exit>
where
    F: FnOnce(Arc<Config>, Lifecycle) -> Fut,
    Fut: Future<Output = anyhow::Result<Exit>> + Send + 'static,
{
    let admin = config.admin_listen(long_running);
    runtime::run(config, name, admin, |lifecycle| body(config.clone(), lifecycle))
}

/// Runs a command that does one thing and ends. It has no admin server.
fn once<F, Fut>(config: &Arc<Config>, name: &'static str, body: F) -> anyhow::Result<Exit>
where
    F: FnOnce(Arc<Config>, Lifecycle) -> Fut,
    Fut: Future<Output = anyhow::Result<Exit>> + Send + 'static,
{
    runtime::run(config, name, None, |lifecycle| body(config.clone(), lifecycle))
}

/// The settings of the store, checked as far as possible without a connection: parameters that contradict each other are refused,
/// and certificates are read.
fn postgres(config: &Config) -> Result<Postgres, ConfigError> {
    checked(config, config.postgres()?, "postgres.url")
}

/// The same for the store that is read from.
fn postgres_to_read(config: &Config) -> Result<Postgres, ConfigError> {
    let key = if config.store.read_url.is_some() { "store.read_url" } else { "postgres.url" };
    checked(config, config.postgres_to_read()?, key)
}

fn checked(config: &Config, postgres: Postgres, key: &str) -> Result<Postgres, ConfigError> {
    crate::store::postgres::validate(&postgres).map_err(|reason| match reason.split_once(": ") {
        Some((named, reason)) if named.starts_with("postgres.tls.") && !named.contains(' ') => config.invalid(named, reason),
        _ => config.invalid(key, reason),
    })?;
    Ok(postgres)
}

/// Checks everything in a configuration that can be checked without reaching a server.
fn check_configuration(config: &Config) -> Result<(), ConfigError> {
    config.check()?;
    if config.postgres.url.is_some() {
        postgres(config)?;
    }
    if config.store.read_url.is_some() {
        postgres_to_read(config)?;
    }
    Ok(())
}

/// Prints text for people, or JSON. Terminal control sequences are escaped; line breaks and tabs are kept, so names must have gone
/// through [`printable::line`] before.
fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(|out| out.write_all(printable::text(text).as_bytes()))
}

/// Prints a value as JSON.
fn print_json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints an error of one thing among others to stderr, on one line. It belongs to an answer, so it is text.
fn print_error(error: &str) {
    runtime::print_error(LogFormat::Text, error);
}

/// Writes bytes to stdout, unchanged. A reader that closes the pipe early (`| head`) is not a failure.
pub fn print_bytes(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

//! The commands and their flags. Flags that set a key of the configuration are its last layer: [`Cli::flags`] lists them.
//!
//! No secret can be given as a flag, because every user of a machine can read the arguments of a process.

mod compact;
mod upkeep;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use jiff::Timestamp;

pub use self::compact::Compact;
pub use self::upkeep::{DeadLetters, Groups, Letters};
use crate::config::{Flag, Listen};
use crate::model::SourceId;

/// GPU telemetry from many edge clusters, through a shared Redis, into PostgreSQL: each row exactly once.
#[derive(Debug, Parser)]
#[command(name = "telemetry", version, arg_required_else_help = true, max_term_width = 120, after_long_help = EXAMPLES)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  export REDIS_URL=redis://127.0.0.1:6379 DATABASE_URL=postgres://postgres@127.0.0.1/telemetry
  telemetry collect                                      queue → PostgreSQL, until stopped
  telemetry stream --csv gpu.csv --cluster edge-a        CSV → queue, ends when every row is safely queued
  telemetry stream --csv /var/lib/dcgm --follow          follows a directory, until stopped
  telemetry serve                                        HTTP API and page: http://127.0.0.1:8080
  telemetry all --csv gpu.csv                            all three in one process, without Redis and PostgreSQL
  telemetry audit                                        checks that every row is accounted for

Settings: defaults < --config files (TOML) < environment (REDIS_URL, …, TELEMETRY__SECTION__KEY) < flags.
`telemetry config show` prints the values in effect, and where each one came from.
Exit codes: 0 success · 1 failure · 2 wrong usage or configuration.";

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file (TOML); can be repeated, later files override earlier ones
    #[arg(long, value_name = "FILE", global = true, help_heading = "Configuration and logs")]
    pub config: Vec<PathBuf>,
    /// Format of log lines
    #[arg(long, value_name = "FORMAT", global = true, value_parser = PossibleValuesParser::new(["text", "json"]), help_heading = "Configuration and logs")]
    pub log_format: Option<String>,
    /// Log level: off, error, warn, info, debug, trace, or a list such as info,telemetry::store=debug [default: info; warn for check, compact, audit, top, groups, dead-letters, replay]
    #[arg(long, value_name = "LEVEL", global = true, help_heading = "Configuration and logs")]
    pub log_level: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads CSV exports and sends their rows to the queue, each exactly once
    Stream(Stream),
    /// Reads batches from the queue and stores them in PostgreSQL, until stopped
    Collect(Collect),
    /// Serves the HTTP API and the page, until stopped
    Serve(Serve),
    /// Streams, collects and serves in one process; without REDIS_URL and DATABASE_URL it uses an embedded queue and store
    All(All),
    /// Runs everything on a simulated fleet, live, without Redis and PostgreSQL, and removes its data at the end
    Demo(Demo),
    /// Measures the connection to Redis until stopped, and exports the results on /metrics
    Probe(Probe),
    /// Checks everything that the roles need, step by step, and says what is wrong and what to do
    Check(Check),
    /// Updates the PostgreSQL schema and ends
    Migrate(Migrate),
    /// Packs now what collectors would pack in the background later, and ends
    Compact(Compact),
    /// Shows for each source where its rows are: stored, rejected, queued, dead; exit code 0 if none is missing
    Audit(Audit),
    /// Lists, shows, retries and drops batches that cannot be stored
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Has sources sent again from their start; rows that are stored already are not stored twice
    Replay(Replay),
    /// Shows rates, lag, sources and connections, live
    Top(Top),
    /// Lists consumer groups, and removes one that is no longer used
    #[command(subcommand)]
    Groups(Groups),
    /// Shows, checks and describes the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Writes synthetic DCGM CSV to standard output
    Generate(Generate),
    /// Writes a shell completion script to standard output
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes the reference documents into a directory
    #[command(hide = true)]
    Reference {
        /// Directory for the documents
        directory: PathBuf,
    },
}

/// `telemetry stream`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  telemetry stream --csv run.csv.gz --cluster edge-a
  telemetry stream --csv '/data/*.csv' /more/data --until stored
  zcat run.csv.gz | telemetry stream --csv -
  telemetry stream --csv /var/lib/dcgm --follow --rejects /var/log/telemetry-rejects.csv
  telemetry stream --csv demo.csv --loop --restamp --realtime      replays a file as if it were live")]
pub struct Stream {
    /// Files, directories (their *.csv and *.csv.gz), globs, or - for standard input
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Input")]
    pub csv: Vec<String>,
    /// Name of this edge cluster
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub cluster: Option<String>,
    /// Identity of the source, instead of a fingerprint of its content
    #[arg(long, value_name = "ID", help_heading = "Input")]
    pub source_id: Option<String>,
    /// Follow the input: growing files, new files, rotated files
    #[arg(long, help_heading = "When it ends")]
    pub follow: bool,
    /// When a run without --follow is complete: every row safely in the queue, or every row in the store
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(["queued", "stored"]), help_heading = "When it ends")]
    pub until: Option<String>,
    /// Start over at the end of the input; each round is a new source
    #[arg(long = "loop", conflicts_with = "follow", help_heading = "When it ends")]
    pub looped: bool,
    /// Maximum rows per second
    #[arg(long, value_name = "ROWS/S", value_parser = rate, help_heading = "Pace")]
    pub rate: Option<u32>,
    /// Send rows at the pace of their timestamps
    #[arg(long, help_heading = "Pace")]
    pub realtime: bool,
    /// Shift the timestamps of the input to now, to make it look live
    #[arg(long, help_heading = "Pace")]
    pub restamp: bool,
    /// File to which rejected rows are written, with their line numbers and reasons
    #[arg(long, value_name = "FILE", help_heading = "Rejected rows")]
    pub rejects: Option<String>,
    /// End with an error at the first rejected row
    #[arg(long, help_heading = "Rejected rows")]
    pub strict: bool,
    /// Where /livez, /readyz and /metrics are served
    #[command(flatten)]
    pub admin: AdminListen,
}

/// `telemetry collect`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  REDIS_URL=redis://queue:6379 DATABASE_URL=postgres://u@db/telemetry telemetry collect
  telemetry collect --config central.toml --admin-listen 0.0.0.0:9464")]
pub struct Collect {
    /// Name of this central cluster, the label target_cluster in metrics
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[command(flatten)]
    pub admin: AdminListen,
}

/// `telemetry serve`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  DATABASE_URL=postgres://reader@db/telemetry telemetry serve
  telemetry serve --listen 0.0.0.0:8080 --config central.toml        needs http.tokens_file, or --insecure-open
The API is documented at /docs and /openapi.json.")]
pub struct Serve {
    /// IP:PORT on which the API and the page are served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Serve without authentication on an address that others can reach
    #[arg(long)]
    pub insecure_open: bool,
    /// Name of this central cluster, in metrics
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[command(flatten)]
    pub admin: AdminListen,
}

/// `telemetry all`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  telemetry generate > sample.csv && telemetry all --csv sample.csv      then open http://127.0.0.1:8080
  telemetry all --csv /var/lib/dcgm --follow --data-dir /var/lib/telemetry
  telemetry all                                                          serves what is stored already
Where REDIS_URL is set, the queue is in Redis; where DATABASE_URL is set, the store is in PostgreSQL. Each works without the other.")]
pub struct All {
    /// What is streamed
    #[command(flatten)]
    pub stream: Stream,
    /// IP:PORT on which the API and the page are served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_parser = address, help_heading = "Serving")]
    pub listen: Option<SocketAddr>,
    /// Serve without authentication on an address that others can reach
    #[arg(long, help_heading = "Serving")]
    pub insecure_open: bool,
    /// Directory of the embedded store; created if it does not exist [default: telemetry-data]
    #[arg(long, value_name = "DIR", help_heading = "Storage")]
    pub data_dir: Option<String>,
}

/// `telemetry demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// IP:PORT on which the API and the page are served [default: 127.0.0.1:8080, or a free port if that one is taken]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: Option<SocketAddr>,
}

/// `--admin-listen`.
#[derive(Debug, Clone, Args)]
pub struct AdminListen {
    /// IP:PORT on which /livez, /readyz and /metrics are served, or off [default: 127.0.0.1:9464; off for a stream that ends by itself]
    #[arg(long, value_name = "ADDR", help_heading = "Monitoring")]
    pub admin_listen: Option<Listen>,
}

/// `telemetry probe`.
#[derive(Debug, Clone, Args)]
pub struct Probe {
    /// Name of this cluster, the label source_cluster in metrics
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[command(flatten)]
    pub admin: AdminListen,
}

/// `telemetry check`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Checks Redis where REDIS_URL is set, and PostgreSQL where DATABASE_URL is set. Changes nothing. With --store, all samples are read, which
takes as long as that takes; collectors and servers may run meanwhile.
Exit codes: 0 no failure, warnings at most · 1 something failed · 2 wrong usage or configuration.")]
pub struct Check {
    /// Also read every row of samples in the store, and name those that are damaged
    #[arg(long)]
    pub store: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `telemetry migrate`.
#[derive(Debug, Clone, Args)]
pub struct Migrate {
    /// Let this role of PostgreSQL read the samples by plain SQL (samples, samples_between, rejected_rows), and nothing else. Repeatable
    #[arg(long, value_name = "ROLE")]
    pub grant_read: Vec<String>,
}

/// `telemetry audit`.
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Show only sources with rows that are not in the store: queued, dead, dropped or missing
    #[arg(long)]
    pub differences: bool,
    /// Also list conflicts: samples of one series and time with different values, in the order in which they were stored; answers have the
    /// last one
    #[arg(long)]
    pub conflicts: bool,
    /// Maximum number of conflicts to list
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "conflicts")]
    pub max_conflicts: usize,
}

/// `telemetry top`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  telemetry top                          at an edge, with REDIS_URL only: shows what the queue knows
  telemetry top --once | grep 'held by'
Keys: q quit, arrows or j k scroll, Tab next list, s sort, p pause, ? help")]
pub struct Top {
    /// Print the state once, as text, and end; the default where standard output is not a terminal
    #[arg(long)]
    pub once: bool,
    /// Time between two updates
    #[arg(long, value_name = "D", default_value = "2s", value_parser = positive)]
    pub interval: Duration,
}

/// `telemetry replay`.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Replay {
    /// Id of a source, from `telemetry audit`; can be repeated
    #[arg(long, value_name = "ID")]
    pub source: Vec<SourceId>,
    /// All sources
    #[arg(long)]
    pub all: bool,
}

/// `telemetry config`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigCommand {
    /// Prints the values in effect as TOML, and where each one came from; secrets are redacted
    Show,
    /// Checks whether the configuration is valid: exit code 0 or 2
    Check,
    /// Prints the JSON Schema of a configuration file
    Schema,
}

/// `telemetry generate`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Example:
  telemetry generate --gpus 8 --duration 10m --interval 1s --seed 7 > demo.csv")]
pub struct Generate {
    /// Number of GPUs
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub gpus: u32,
    /// Time range of the samples
    #[arg(long, value_name = "D", default_value = "10m", value_parser = positive)]
    pub duration: Duration,
    /// Time between two samples of a series
    #[arg(long, value_name = "D", default_value = "1s", value_parser = positive)]
    pub interval: Duration,
    /// Seed of the random values; the same seed gives the same rows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Time of the first sample (RFC 3339)
    #[arg(long, value_name = "TIME", default_value = "2025-01-01T00:00:00Z", value_parser = time)]
    pub start: Timestamp,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address to listen on: write IP:PORT (127.0.0.1:8080, 0.0.0.0:8080, [::]:8080; port 0 takes a free port)")
    })
}

fn rate(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write a whole number of rows per second, such as 5000".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write a time with its zone (RFC 3339), such as 2025-01-01T00:00:00Z".to_owned())
}

fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; use 10m, 1s or 250ms, for example"))?;
    if duration < Duration::from_millis(1) { Err("it must be at least 1ms".to_owned()) } else { Ok(duration) }
}

impl Command {
    /// Whether the command prints an answer and ends. Such a command logs from `warn` up, unless the level is set.
    #[must_use]
    pub fn prints_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Check(_)
                | Self::Compact(_)
                | Self::Audit(_)
                | Self::Top(_)
                | Self::Groups(_)
                | Self::DeadLetters(_)
                | Self::Replay(_)
        )
    }
}

impl Cli {
    /// Parses a command line. clap ends the process at wrong usage, `--help` and `--version`.
    #[must_use]
    pub fn from_command_line(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self::parse_from(config_first(arguments))
    }

    /// The keys that the flags set, with their values.
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = Flags::default();
        flags.text("log.format", "--log-format", self.global.log_format.as_deref());
        flags.text("log.level", "--log-level", self.global.log_level.as_deref());
        match &self.command {
            Command::Stream(stream) => stream.flags(&mut flags),
            Command::Collect(collect) => {
                flags.text("cluster", "--cluster", collect.cluster.as_deref());
                collect.admin.flags(&mut flags);
            }
            Command::Probe(probe) => {
                flags.text("cluster", "--cluster", probe.cluster.as_deref());
                probe.admin.flags(&mut flags);
            }
            Command::All(all) => {
                all.stream.flags(&mut flags);
                flags.listen(all.listen, all.insecure_open);
                flags.text("data.dir", "--data-dir", all.data_dir.as_deref());
            }
            Command::Compact(compact) => flags.text("data.dir", "--data-dir", compact.data_dir.as_deref()),
            Command::Serve(serve) => {
                flags.listen(serve.listen, serve.insecure_open);
                flags.text("cluster", "--cluster", serve.cluster.as_deref());
                serve.admin.flags(&mut flags);
            }
            _ => {}
        }
        flags.0
    }
}

/// Moves every `--config FILE` before the command, because clap drops the ones before a command when there are some after it.
fn config_first(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter().peekable();
    let mut first: Vec<OsString> = arguments.next().into_iter().collect();
    let mut rest = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            rest.push(argument);
            rest.extend(arguments);
            break;
        }
        if text.starts_with("--config=") {
            first.push(argument);
        } else if text == "--config" {
            // Without a value it stays where it is: clap reports it.
            match arguments.next_if(|next| !next.to_string_lossy().starts_with('-')) {
                Some(file) => first.extend([argument, file]),
                None => rest.push(argument),
            }
        } else {
            rest.push(argument);
        }
    }
    first.extend(rest);
    first
}

impl Stream {
    fn flags(&self, flags: &mut Flags) {
        if !self.csv.is_empty() {
            flags.push("stream.csv", "--csv", self.csv.clone());
        }
        flags.text("cluster", "--cluster", self.cluster.as_deref());
        flags.text("stream.source_id", "--source-id", self.source_id.as_deref());
        flags.switch("stream.follow", "--follow", self.follow);
        flags.text("stream.until", "--until", self.until.as_deref());
        flags.switch("stream.loop", "--loop", self.looped);
        if let Some(rate) = self.rate {
            flags.push("stream.rate", "--rate", i64::from(rate));
        }
        flags.switch("stream.realtime", "--realtime", self.realtime);
        flags.switch("stream.restamp", "--restamp", self.restamp);
        flags.text("stream.rejects", "--rejects", self.rejects.as_deref());
        flags.switch("stream.strict", "--strict", self.strict);
        self.admin.flags(flags);
    }
}

impl AdminListen {
    fn flags(&self, flags: &mut Flags) {
        if let Some(listen) = self.admin_listen {
            flags.push("admin.listen", "--admin-listen", listen.to_string());
        }
    }
}

#[derive(Default)]
struct Flags(Vec<Flag>);

impl Flags {
    fn push(&mut self, key: &'static str, name: &'static str, value: impl Into<toml::Value>) {
        self.0.push(Flag { key, name, value: value.into() });
    }

    fn text(&mut self, key: &'static str, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(key, name, value);
        }
    }

    fn listen(&mut self, listen: Option<SocketAddr>, insecure_open: bool) {
        if let Some(listen) = listen {
            self.push("http.listen", "--listen", listen.to_string());
        }
        self.switch("http.insecure_open", "--insecure-open", insecure_open);
    }

    fn switch(&mut self, key: &'static str, name: &'static str, on: bool) {
        if on {
            self.push(key, name, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_names_a_key_that_exists() {
        let line = "telemetry --log-level debug stream --csv a b --cluster c --source-id s --until stored --rate 5 \
                    --realtime --restamp --rejects r --strict --admin-listen off --log-format json";
        let cli = Cli::parse_from(line.split_whitespace());
        let config = crate::config::load(&[], [], &cli.flags()).expect("all values are valid");
        assert_eq!(config.stream.csv, ["a", "b"]);
        assert_eq!(config.stream.rate, Some(5));
        assert_eq!(config.cluster, "c");
        assert_eq!(config.origin("stream.rate").to_string(), "--rate");
        assert_eq!(config.admin_listen(true), None);
        assert_eq!(config.log.level, "debug");
    }

    #[test]
    fn no_config_file_is_forgotten_wherever_it_stands() {
        let line = "telemetry --config a config --config=b show --config c --log-level debug";
        let cli = Cli::from_command_line(line.split(' ').map(OsString::from));
        assert_eq!(cli.global.config, ["a", "b", "c"].map(PathBuf::from));
        assert!(Cli::try_parse_from(config_first(["telemetry", "config", "show", "--config"].map(OsString::from))).is_err());
    }

    #[test]
    fn replay_wants_to_be_told_what() {
        assert!(Cli::try_parse_from(["telemetry", "replay"]).is_err());
        assert!(Cli::try_parse_from(["telemetry", "replay", "--all", "--source", &"0".repeat(32)]).is_err());
        assert!(Cli::try_parse_from(["telemetry", "replay", "--all"]).is_ok());
    }
}

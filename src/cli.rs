//! The commands and their flags. A flag that sets a key of the configuration is its last layer: [`Command::flags`] says which.
//!
//! No secret can be given as a flag: a process's arguments are there for everybody to read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use jiff::Timestamp;

use crate::config::{Flag, Listen};
use crate::model::SourceId;

/// GPU telemetry from many edge clusters, through a shared Redis, into PostgreSQL: each row exactly once.
#[derive(Debug, Parser)]
#[command(name = "telemetry", version, arg_required_else_help = true, max_term_width = 120, after_long_help = EXAMPLES)]
pub struct Cli {
    /// Where to look for settings, and how to log.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  export REDIS_URL=redis://127.0.0.1:6379 DATABASE_URL=postgres://postgres@127.0.0.1/telemetry
  telemetry collect                                      queue → PostgreSQL, until stopped
  telemetry stream --csv gpu.csv --cluster edge-a        CSV → queue, ends when every row is safely there
  telemetry stream --csv /var/lib/dcgm --follow          keeps watching a directory
  telemetry serve                                        the HTTP API: http://127.0.0.1:8080
  telemetry all --csv gpu.csv                            all three in one process, with nothing else installed
  telemetry audit                                        does the sum close?

Settings: defaults < --config files (TOML) < environment (REDIS_URL, …, TELEMETRY__SECTION__KEY) < flags.
`telemetry config show` prints what is in effect, and where each value came from.
Exit codes: 0 done · 1 failed · 2 wrong usage or configuration.";

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file (TOML); of several, the later one wins
    #[arg(long, value_name = "FILE", global = true, help_heading = "Configuration and logs")]
    pub config: Vec<PathBuf>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", global = true, value_parser = PossibleValuesParser::new(["text", "json"]), help_heading = "Configuration and logs")]
    pub log_format: Option<String>,
    /// off, error, warn, info, debug, trace, or a list such as info,telemetry::store=debug [default: info; warn for check, audit, top, groups, dead-letters, replay]
    #[arg(long, value_name = "LEVEL", global = true, help_heading = "Configuration and logs")]
    pub log_level: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads CSV exports and puts their rows into the queue, each exactly once
    Stream(Stream),
    /// Takes batches from the queue and stores them in PostgreSQL, until stopped
    Collect(Collect),
    /// Serves the HTTP API and the page, until stopped
    Serve(Serve),
    /// Streams, collects and serves in one process: with no REDIS_URL and no DATABASE_URL it needs nothing else
    All(All),
    /// Shows it all on a made-up fleet, live, with nothing else needed; nothing of it stays
    Demo(Demo),
    /// Measures the way to Redis until stopped, and exports it on /metrics
    Probe(Probe),
    /// Looks at everything that roles need, step by step, and says what is wrong and what to do
    Check(Check),
    /// Brings PostgreSQL's schema up to date and ends
    Migrate,
    /// Says for each source where its rows are: stored, rejected, queued, dead; exit code 0 when the sum closes
    Audit(Audit),
    /// Shows and handles batches that could not be stored for a reason of their own
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Has sources sent again from their start; what is stored stays single
    Replay(Replay),
    /// Shows rates, lag, sources and connections, live
    Top(Top),
    /// Lists consumer groups, and takes one away that is gone for good
    #[command(subcommand)]
    Groups(Groups),
    /// Shows, checks and describes the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Writes synthetic DCGM CSV to stdout
    Generate(Generate),
    /// Writes a completion script for a shell to stdout
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes the reference documents into a directory
    #[command(hide = true)]
    Reference {
        /// The directory
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
  telemetry stream --csv demo.csv --loop --restamp --realtime      a demo that looks live")]
pub struct Stream {
    /// Files, directories (their *.csv and *.csv.gz), globs, or - for stdin
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Input")]
    pub csv: Vec<String>,
    /// This edge cluster's name
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub cluster: Option<String>,
    /// Identity of the source, instead of the fingerprint of its content
    #[arg(long, value_name = "ID", help_heading = "Input")]
    pub source_id: Option<String>,
    /// Keep watching: growing files, new files, rotation
    #[arg(long, help_heading = "When it ends")]
    pub follow: bool,
    /// When a run without --follow is done: every row safely in the queue, or in the store
    #[arg(long, value_name = "WHEN", value_parser = PossibleValuesParser::new(["queued", "stored"]), help_heading = "When it ends")]
    pub until: Option<String>,
    /// Start over at the end; each round is a new source
    #[arg(long = "loop", conflicts_with = "follow", help_heading = "When it ends")]
    pub looped: bool,
    /// Rows per second at most
    #[arg(long, value_name = "ROWS/S", help_heading = "Pace")]
    pub rate: Option<u32>,
    /// Pace by the source's own timestamps
    #[arg(long, help_heading = "Pace")]
    pub realtime: bool,
    /// Shift source times so that the data looks live
    #[arg(long, help_heading = "Pace")]
    pub restamp: bool,
    /// File to which rejected rows are written, with line number and reason
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
    /// This central cluster's name, as target_cluster in metrics
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
Documentation of the API: /docs, /openapi.json")]
pub struct Serve {
    /// IP:PORT of the API and the page [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<std::net::SocketAddr>,
    /// Serve without tokens on an address that others can reach
    #[arg(long)]
    pub insecure_open: bool,
    /// This central cluster's name, in metrics
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Where /livez, /readyz and /metrics are served (they are on the API's address, too)
    #[command(flatten)]
    pub admin: AdminListen,
}

/// `telemetry all`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  telemetry generate > sample.csv && telemetry all --csv sample.csv      then open http://127.0.0.1:8080
  telemetry all --csv /var/lib/dcgm --follow --data-dir /var/lib/telemetry
With REDIS_URL set the queue is in Redis, with DATABASE_URL set the store is in PostgreSQL; each for itself.")]
pub struct All {
    /// What is streamed
    #[command(flatten)]
    pub stream: Stream,
    /// IP:PORT of the API and the page [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", help_heading = "Serving")]
    pub listen: Option<std::net::SocketAddr>,
    /// Serve without tokens on an address that others can reach
    #[arg(long, help_heading = "Serving")]
    pub insecure_open: bool,
    /// Directory of the embedded store, made where it is missing [default: telemetry-data]
    #[arg(long, value_name = "DIR", help_heading = "Keeping")]
    pub data_dir: Option<String>,
}

/// `telemetry demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// IP:PORT of the API and the page [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<std::net::SocketAddr>,
}

/// `--admin-listen`.
#[derive(Debug, Clone, Args)]
pub struct AdminListen {
    /// IP:PORT of /livez, /readyz and /metrics, or off [default: 127.0.0.1:9464; none for a stream that ends]
    #[arg(long, value_name = "ADDR", help_heading = "Observation")]
    pub admin_listen: Option<Listen>,
}

/// `telemetry probe`.
#[derive(Debug, Clone, Args)]
pub struct Probe {
    /// This cluster's name, as source_cluster in metrics
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[command(flatten)]
    pub admin: AdminListen,
}

/// `telemetry check`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Looks at Redis where REDIS_URL is set, at PostgreSQL where DATABASE_URL is. Nothing is changed.
Exit codes: 0 all good, or warnings only · 1 something failed · 2 wrong usage or configuration.")]
pub struct Check {
    /// JSON instead of lines
    #[arg(long)]
    pub json: bool,
}

/// `telemetry audit`.
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Only the sources that have rows elsewhere than in the store
    #[arg(long)]
    pub differences: bool,
}

/// `telemetry top`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  telemetry top                          at an edge, with REDIS_URL alone: what the queue knows
  telemetry top --once | grep 'held by'
Keys: q quit, arrows or j k scroll, Tab next list, s sort, p pause, ? help")]
pub struct Top {
    /// Prints it once, as text, and ends; so it does when stdout is no terminal
    #[arg(long)]
    pub once: bool,
    /// Time between two looks
    #[arg(long, value_name = "D", default_value = "2s", value_parser = positive)]
    pub interval: Duration,
}

/// `telemetry groups`.
#[derive(Debug, Clone, Subcommand)]
pub enum Groups {
    /// Lists the consumer groups: what waits for each, and which of them is at work
    List {
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Takes a group away that is gone for good, and frees what Redis keeps for it alone
    #[command(after_long_help = "\
What the group has not read is not stored by it, and is deleted from Redis where the other groups have done with it. A group that is
still configured somewhere (redis.group of a collector or a streamer) comes back with the next batch.")]
    Retire {
        /// Its name
        group: String,
        /// Also if a consumer of it was heard within the last minute, or it is the group of this configuration
        #[arg(long)]
        force: bool,
    },
}

/// `telemetry dead-letters`.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLetters {
    /// Lists them, oldest first
    List {
        /// JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Shows one with what can be decoded of it: whose series, the first rows
    Show {
        /// Its number, as `list` gives it
        id: i64,
        /// How many series and rows are shown
        #[arg(long, value_name = "N", default_value_t = 10)]
        rows: usize,
        /// JSON, with all series and rows
        #[arg(long, conflicts_with = "rows")]
        json: bool,
    },
    /// Stores what they hold, and removes them
    Retry {
        /// Which
        #[command(flatten)]
        which: Letters,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Gives their rows up for good, and notes that
    Drop {
        /// Which
        #[command(flatten)]
        which: Letters,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Some dead letters.
#[derive(Debug, Clone, Args)]
pub struct Letters {
    /// Their numbers
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<i64>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

/// `telemetry replay`.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Replay {
    /// A source's id, as `telemetry audit` gives it; may be repeated
    #[arg(long, value_name = "ID")]
    pub source: Vec<SourceId>,
    /// Every source
    #[arg(long)]
    pub all: bool,
}

/// `telemetry config`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigCommand {
    /// Prints the values in effect as TOML, each with where it came from; secrets are redacted
    Show,
    /// Says whether the configuration is usable: exit code 0 or 2
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
    /// GPUs
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub gpus: u32,
    /// How much time it covers
    #[arg(long, value_name = "D", default_value = "10m", value_parser = positive)]
    pub duration: Duration,
    /// Time between two samples of a series
    #[arg(long, value_name = "D", default_value = "1s", value_parser = positive)]
    pub interval: Duration,
    /// The same seed gives the same rows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Time of the first sample, RFC 3339
    #[arg(long, value_name = "TIME", default_value = "2025-01-01T00:00:00Z")]
    pub start: Timestamp,
}

fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; write 10m, 1s, 250ms"))?;
    if duration < Duration::from_millis(1) { Err("must be at least 1ms".to_owned()) } else { Ok(duration) }
}

impl Command {
    /// Whether it answers somebody who reads that at once. Such a command logs what is wrong, unless it is told to say more.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Check(_) | Self::Audit(_) | Self::Top(_) | Self::Groups(_) | Self::DeadLetters(_) | Self::Replay(_))
    }
}

impl Cli {
    /// Parses a command line; wrong usage, `--help` and `--version` end the process as clap does it.
    #[must_use]
    pub fn from_command_line(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self::parse_from(config_first(arguments))
    }

    /// The keys that flags set.
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

/// Moves every `--config FILE` before the command. clap forgets those before a command when there are some after it.
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
            // Without a value it stays where clap will say so.
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

    fn listen(&mut self, listen: Option<std::net::SocketAddr>, insecure_open: bool) {
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
        let config = crate::config::load(&[], [], &cli.flags()).expect("all of them are possible");
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

//! The subcommands and flags of `telemetry groups` and `telemetry dead-letters`.

use clap::{Args, Subcommand};

/// `telemetry groups`.
#[derive(Debug, Clone, Subcommand)]
pub enum Groups {
    /// Lists the consumer groups: how many batches wait for each, and which are active
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Removes a group that is no longer used, and frees the batches that Redis keeps for it alone
    #[command(after_long_help = "\
Batches that the group has not stored are lost to it. Redis deletes those that all other groups have acknowledged. A group that is still
configured somewhere (redis.group of a collector or a streamer) is created again with the next batch.")]
    Retire {
        /// Name of the group
        group: String,
        /// Retire the group even if a consumer of it was active within the last minute, or it is the group of this configuration
        #[arg(long)]
        force: bool,
    },
}

/// `telemetry dead-letters`.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLetters {
    /// Lists the dead letters, oldest first
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Shows a dead letter, as far as it can be decoded: its series and its first rows
    Show {
        /// Number of the dead letter, from `list`
        id: i64,
        /// Maximum series and rows to show
        #[arg(long, value_name = "N", default_value_t = 10)]
        rows: usize,
        /// Print JSON, with all series and rows
        #[arg(long, conflicts_with = "rows")]
        json: bool,
    },
    /// Stores the rows of dead letters, and removes the letters
    Retry {
        /// The dead letters to retry
        #[command(flatten)]
        which: Letters,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Gives up the rows of dead letters for good, and records that
    Drop {
        /// The dead letters to drop
        #[command(flatten)]
        which: Letters,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// A selection of dead letters.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Letters {
    /// Numbers of the dead letters, from `list`
    pub ids: Vec<i64>,
    /// All dead letters
    #[arg(long)]
    pub all: bool,
}

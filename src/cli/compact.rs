//! The flags of `telemetry compact`.

use clap::Args;
use jiff::Timestamp;

use super::time;

/// `telemetry compact`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  telemetry compact                                      drops what is past its time, packs every hour and day that is over
  telemetry compact --until 2025-02-01T00:00:00Z
  telemetry compact --dry-run                            shows what would be dropped and packed
  telemetry compact --data-dir /var/lib/telemetry        the embedded store, while `telemetry all` does not run
Collectors and servers may run meanwhile. Dropped, for good, are days that ended longer ago than store.retention says; where nothing is set
there, none are. What is packed is the same samples in fewer and smaller rows. Where another program packs this store, the command waits for
it. Exit codes: 0 everything is done, or there was nothing to do · 1 something could not be dropped or packed · 2 wrong usage or
configuration.")]
pub struct Compact {
    /// Pack what lies before this time (RFC 3339) [default: the end of the last hour that ended at least 10 minutes ago]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// Show what would be dropped and packed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Directory of the embedded store, where DATABASE_URL is not set [default: telemetry-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
}

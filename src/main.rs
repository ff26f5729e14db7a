//! The `telemetry` program: parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use telemetry::cli::Cli;
use telemetry::roles;

fn main() -> ExitCode {
    roles::dispatch(Cli::parse(), std::env::vars_os())
}

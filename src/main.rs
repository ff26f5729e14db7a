//! The `telemetry` program: parse, dispatch, exit code.

use std::process::ExitCode;

use telemetry::cli::Cli;
use telemetry::roles;

fn main() -> ExitCode {
    roles::dispatch(Cli::from_command_line(std::env::args_os()), std::env::vars_os())
}

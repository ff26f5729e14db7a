//! `telemetry completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::runtime::Exit;

/// Writes the script to stdout.
pub fn run(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "telemetry", &mut script);
    super::print_bytes(|out| out.write_all(&script))?;
    Ok(Exit::Done)
}

//! `completions`: a completion script for a shell.

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;
use super::output;
use super::run_info::COMMAND;

/// Print a completion script for a shell
///
/// Source it, or put it where the shell looks for completions.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the completion script of `command`.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, COMMAND, &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

//! `man`: manual pages.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;

use super::failure::Failure;
use super::output;
use crate::output::commit::write_file_atomically;

/// Write the manual pages: deepwide.1, deepwide-grow.1 and so on
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Directory of the pages, such as ~/.local/share/man/man1; created if it does not exist
    pub out: PathBuf,
}

/// Writes one page for `command` and each of its subcommands.
///
/// # Errors
/// If a page or stdout cannot be written.
pub fn run(args: &ManArgs, command: Command) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.out).map_err(Failure::writing(&args.out))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut written = Vec::new();
    write_pages(command, &args.out, &mut written)?;
    output::print(&format!("wrote {} to {}\n", written.join(", "), args.out.display()))
}

fn write_pages(command: Command, out: &Path, written: &mut Vec<String>) -> Result<(), Failure> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below.clone(), out, written)?;
    }
    let page = Man::new(command);
    let mut text = Vec::new();
    let path = out.join(page.get_filename());
    page.render(&mut text).map_err(Failure::writing(&path))?;
    written.push(page.get_filename());
    Ok(write_file_atomically(&path, &text)?)
}

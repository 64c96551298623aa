//! `verify`: does a grown checkpoint still have the bytes that its receipt names?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::progress::Bytes;
use super::{console, interrupt, output};
use crate::output::receipt::{Fault, verify};

/// Hash every file of a checkpoint that deepwide wrote, and compare with its receipt, deepwide.json.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The directory
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Verifies a directory.
///
/// # Errors
/// If a file differs (exit code 5), there is no receipt, or a file cannot be read.
pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let disk = interrupt::disk();
    let bar = Bytes::new("hashing", None);
    let (num_files, faults) = console::timed("hashed", || verify(&disk, &args.out, &mut |bytes| bar.add(bytes)))?;
    drop(bar);
    if !faults.is_empty() {
        let list = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
        let message = format!("{:?} is not what its receipt says: {list}", args.out);
        return Err(Failure::check(message, json!({"files": num_files, "faults": faults})));
    }
    output::print(&if args.json {
        format!("{:#}\n", json!({"files": num_files, "faults": []}))
    } else {
        format!("{num_files} files are as {:?} has them\n", args.out.join("deepwide.json"))
    })
}

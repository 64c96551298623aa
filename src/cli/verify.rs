//! `verify`: compares a checkpoint with its receipt.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::progress::Bytes;
use super::{console, interrupt, output};
use crate::output::manifest::Mismatch;
use crate::output::receipt::{Verification, verify};

/// Hash every file of a directory that deepwide wrote and compare it with the receipt, deepwide.json
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
    let verified = console::timed("hashed", || verify(&disk, &args.out, &mut |bytes| bar.add(bytes)));
    let Verification { num_files, mismatches } = verified?;
    drop(bar);
    let found = json!({"files": num_files, "mismatches": mismatches});
    if !mismatches.is_empty() {
        let list = mismatches.iter().map(Mismatch::to_string).collect::<Vec<_>>().join("; ");
        return Err(Failure::check(format_args!("{:?} is not what its receipt says: {list}", args.out), found));
    }
    output::print(&if args.json {
        format!("{found:#}\n")
    } else {
        format!("{num_files} files match {:?}\n", args.out.join("deepwide.json"))
    })
}

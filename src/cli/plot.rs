//! `plot`: draws the figures of a record again.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::output;
use crate::study::{StudyError, redraw};

/// Draw the figures of a record again: the results.json of compare, or of the example profile_cuda
#[derive(Debug, Clone, Args)]
pub struct PlotArgs {
    /// The record, or its folder
    #[arg(value_name = "RECORD")]
    pub record: PathBuf,
    /// Folder for the figures; figures of the same names are replaced [default: the folder of the record]
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Draws and writes.
///
/// # Errors
/// If the record cannot be read or is another file, or if a figure cannot be written.
pub fn run(args: &PlotArgs) -> Result<(), Failure> {
    let files = redraw(&args.record, args.out.as_deref()).map_err(|error| match error {
        StudyError::NotWritable { .. } if args.out.is_some() => Failure::usage(error).for_option("--out"),
        error => error.into(),
    })?;
    output::print(&match args.json {
        // A path may not be UTF-8.
        true => {
            let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
            format!("{:#}\n", json!({ "files": files }))
        }
        false => files.iter().map(|file| format!("{}\n", file.display())).collect(),
    })
}

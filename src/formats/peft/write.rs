//! Writes an adapter as PEFT does.

use std::path::Path;

use serde_json::json;

use super::config::to_json;
use super::{CONFIG, MODEL, factor_names};
use crate::formats::CheckpointError;
use crate::formats::safetensors::{TensorSpec, write_safetensors};
use crate::lora::{LoraAdapter, module_name};
use crate::output::commit::{Existing, PartialDirectory};
use crate::output::disk::disk;
use crate::output::receipt::{RECEIPT, RECORD_FORMAT};
use crate::weights::{Dtype, PIECE_NUMBERS};

/// Writes the two files of an adapter of `base` into a directory.
///
/// # Errors
/// [`CheckpointError::File`].
pub fn write_peft(
    partial: &mut PartialDirectory,
    adapter: &LoraAdapter,
    base: Option<&str>,
) -> Result<(), CheckpointError> {
    let mut specs = Vec::new();
    let mut factors = Vec::new();
    for (id, update) in adapter.updates() {
        let module = module_name(id).expect("an adapted module is a linear map");
        let [rows, columns] = update.dims();
        let shapes = [vec![update.rank, columns], vec![rows, update.rank]];
        for ((name, shape), values) in factor_names(&module).into_iter().zip(shapes).zip([&update.a, &update.b]) {
            specs.push(TensorSpec { name, dtype: Dtype::Float32, shape });
            factors.push(values);
        }
    }
    let mut file = partial.begin(MODEL)?;
    // All factors have one type, so they are written in the order of the specs.
    let mut factors = factors.into_iter();
    write_safetensors(&mut file, &specs, |_, sink| {
        let values = factors.next().expect("a factor for each spec");
        values
            .chunks(PIECE_NUMBERS)
            .try_for_each(|piece| sink(&piece.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()))
    })?;
    partial.finish(file)?;
    Ok(partial.write(CONFIG, format!("{:#}\n", to_json(adapter, base)).as_bytes())?)
}

/// Writes an adapter of `base` to a new directory, with a receipt.
///
/// # Errors
/// [`CheckpointError::Output`], [`CheckpointError::File`].
pub fn write_peft_directory(adapter: &LoraAdapter, base: Option<&str>, path: &Path) -> Result<(), CheckpointError> {
    let mut partial = PartialDirectory::create(disk(), path, Existing::Keep)?;
    write_peft(&mut partial, adapter, base)?;
    let receipt = json!({
        "format": RECORD_FORMAT,
        env!("CARGO_PKG_NAME"): env!("CARGO_PKG_VERSION"),
        "adapter_of": base,
        "files": partial.files(),
    });
    partial.write(RECEIPT, format!("{receipt:#}\n").as_bytes())?;
    Ok(partial.commit()?)
}

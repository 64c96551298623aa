//! The bytes of a weight in the order of its rows, a bounded run at a time.

use super::parts::Part;
use crate::output::disk::Disk;
use crate::weights::WeightError;

/// Bytes of a run at most; dequantized they are twelve times as many.
const RUN_BYTES: usize = 128 << 10;

/// Where the rows of a weight lie.
pub(super) struct Rows {
    pub begin: u64,
    pub size_bytes: u64,
    pub block_bytes: usize,
    /// Number of rows.
    pub rows: usize,
    /// Rows in a head, if llama.cpp keeps them in its own order.
    pub head_dim: Option<usize>,
}

impl Rows {
    /// Hands over runs of whole blocks, rows in Hugging Face's order.
    pub fn each(
        &self,
        part: &Part,
        disk: &dyn Disk,
        take: &mut dyn FnMut(&[u8]) -> Result<(), WeightError>,
    ) -> Result<(), WeightError> {
        let file = part.reopened(disk)?;
        let mut buffer = Vec::new();
        let mut read = |mut begin: u64, mut left: u64| {
            while left > 0 {
                let run = left.min((RUN_BYTES / self.block_bytes * self.block_bytes) as u64);
                buffer.resize(run as usize, 0);
                part.read_exact_at(&*file, &mut buffer, begin)?;
                take(&buffer)?;
                (begin, left) = (begin + run, left - run);
            }
            Ok(())
        };
        let Some(head_dim) = self.head_dim else { return read(self.begin, self.size_bytes) };
        let row_bytes = self.size_bytes / self.rows as u64;
        (0..self.rows).try_for_each(|row| read(self.begin + stored_row(row, head_dim) as u64 * row_bytes, row_bytes))
    }
}

/// Where llama.cpp keeps this row of a rotary projection: it turns neighbours, Hugging Face halves of a head.
fn stored_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + within % half * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_there_are_halves_of_a_head_here() {
        let rows: Vec<usize> = (0..12).map(|row| stored_row(row, 6)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}

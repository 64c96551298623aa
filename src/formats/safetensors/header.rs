//! The header of a safetensors file: a length, a JSON object, and the rules that tie it to the bytes after it.
//!
//! Stricter than the format where the format is silent: names, keys and bytes belong to one tensor each.

use std::cmp::Ordering;

use super::entries::{self, Entries};
use super::fault::SafetensorsFault;
use super::other_formats;
use super::tensor_info::TensorInfo;
use crate::output::disk::ReadAt;

/// A checked header. The tensors are in the order of the bytes, which they cover without gap or overlap.
pub(super) struct Header {
    pub data_start: u64,
    pub tensors: Vec<(String, TensorInfo)>,
    /// Indices into `tensors`, in the order of the names.
    pub by_name: Vec<u32>,
    pub metadata: Vec<(String, String)>,
}

const LENGTH_BYTES: u64 = 8;
const LIMIT_BYTES: u64 = 100_000_000;

pub(super) fn read(file: &dyn ReadAt, file_bytes: u64) -> Result<Header, SafetensorsFault> {
    other_formats::refuse(file, file_bytes)?;
    if file_bytes < LENGTH_BYTES + 2 {
        return Err(SafetensorsFault::TooShort { found_bytes: file_bytes });
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > LIMIT_BYTES {
        return Err(SafetensorsFault::HeaderTooLong { found_bytes: header_bytes, limit_bytes: LIMIT_BYTES });
    }
    let left_bytes = file_bytes - LENGTH_BYTES;
    if header_bytes > left_bytes {
        return Err(SafetensorsFault::HeaderBeyondFile { header_bytes, left_bytes });
    }
    let mut json = vec![0; header_bytes as usize];
    file.read_exact_at(&mut json, LENGTH_BYTES)?;
    let Entries { mut tensors, metadata } = parse(&json)?;
    tensors.sort_by_key(|(_, info)| (info.begin, info.end));
    let by_name = distinct(&tensors)?;
    data_is_covered(&tensors, left_bytes - header_bytes)?;
    Ok(Header { data_start: LENGTH_BYTES + header_bytes, tensors, by_name, metadata })
}

fn parse(json: &[u8]) -> Result<Entries, SafetensorsFault> {
    if !json.starts_with(b"{") {
        return Err(SafetensorsFault::HeaderNotObject { found: json.first().copied().unwrap_or(0) });
    }
    if json.ends_with(b"\0") {
        let nuls = json.iter().rev().take_while(|byte| **byte == 0).count();
        let offset = LENGTH_BYTES + (json.len() - nuls) as u64;
        return Err(SafetensorsFault::NulPadding { offset });
    }
    let entries = entries::parse(json)?;
    let mut keys: Vec<&String> = entries.metadata.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(SafetensorsFault::DuplicateKey { name: "__metadata__".to_owned(), key: pair[0].clone() }),
        None => Ok(entries),
    }
}

/// The indices of the tensors in the order of their names, which must differ.
fn distinct(tensors: &[(String, TensorInfo)]) -> Result<Vec<u32>, SafetensorsFault> {
    let name = |i: &u32| tensors[*i as usize].0.as_str();
    let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
    by_name.sort_unstable_by_key(name);
    match by_name.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
        Some(pair) => Err(SafetensorsFault::DuplicateTensor { name: name(&pair[0]).to_owned() }),
        None => Ok(by_name),
    }
}

fn data_is_covered(tensors: &[(String, TensorInfo)], found_bytes: u64) -> Result<(), SafetensorsFault> {
    let mut expected = 0;
    for (name, info) in tensors {
        let (name, begin) = (|| name.clone(), info.begin);
        match begin.cmp(&expected) {
            Ordering::Less => return Err(SafetensorsFault::Overlap { name: name(), begin, expected }),
            Ordering::Greater => return Err(SafetensorsFault::Hole { name: name(), begin, expected }),
            Ordering::Equal => expected = info.end,
        }
    }
    let expected_bytes = expected;
    if found_bytes < expected_bytes {
        let complete = tensors.iter().rev().find(|(_, info)| info.end <= found_bytes).map(|(name, _)| name.clone());
        return Err(SafetensorsFault::Truncated { found_bytes, expected_bytes, complete });
    }
    if found_bytes > expected_bytes {
        return Err(SafetensorsFault::TrailingBytes { found_bytes, expected_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use ::safetensors::tensor::TensorView;
    use ::safetensors::{Dtype as StoredDtype, SafeTensors};
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::SafetensorsFile;
    use super::*;
    use crate::error::{FileFault, InFile};
    use crate::formats::json::Pairs;
    use crate::output::disk::Stat;

    type Contents = BTreeMap<String, (StoredDtype, Vec<usize>, Vec<u8>)>;

    struct InMemory<'a>(&'a [u8]);

    impl ReadAt for InMemory<'_> {
        fn stat(&self) -> io::Result<Stat> {
            unreachable!("the size is given")
        }

        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(bytes.len());
            bytes[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    }

    fn ours(bytes: &[u8]) -> Result<Contents, SafetensorsFault> {
        let header = read(&InMemory(bytes), bytes.len() as u64)?;
        let data = &bytes[header.data_start as usize..];
        let entry = |(name, info): (String, TensorInfo)| {
            (name, (info.dtype, info.shape, data[info.begin as usize..info.end as usize].to_vec()))
        };
        Ok(header.tensors.into_iter().map(entry).collect())
    }

    fn theirs(bytes: &[u8]) -> Option<Contents> {
        let file = SafeTensors::deserialize(bytes).ok()?;
        let entry =
            |(name, view): (String, TensorView)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        Some(file.tensors().into_iter().map(entry).collect())
    }

    fn sample() -> Vec<u8> {
        let data: Vec<u8> = (0..64).collect();
        let view =
            |dtype, shape: &[usize], bytes: usize| TensorView::new(dtype, shape.to_vec(), &data[..bytes]).unwrap();
        let tensors = [
            ("a", view(StoredDtype::F32, &[2, 3], 24)),
            ("b", view(StoredDtype::BF16, &[4], 8)),
            ("c", view(StoredDtype::I64, &[1, 2], 16)),
            ("d", view(StoredDtype::U8, &[0, 7], 0)),
            ("e", view(StoredDtype::F4, &[4], 2)),
            ("f", view(StoredDtype::F16, &[], 2)),
        ];
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        ::safetensors::serialize(tensors, Some(metadata)).unwrap()
    }

    /// Changes the text of the header as a careless or hostile writer might, keeping the length in step, or any byte.
    fn mutated(sample: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
        let header_bytes = u64::from_le_bytes(sample[..8].try_into().unwrap()) as usize;
        let (mut header, mut data) = (sample[8..8 + header_bytes].to_vec(), sample[8 + header_bytes..].to_vec());
        let digits: Vec<usize> = (0..header.len()).filter(|&i| header[i].is_ascii_digit()).collect();
        match rng.random_range(0..10) {
            0 => header[digits[rng.random_range(0..digits.len())]] = b'0' + rng.random_range(0..10),
            1 => {
                let at = rng.random_range(0..header.len());
                header[at] = rng.random_range(0x20..0x7f);
            }
            2 => {
                let (from, to) = (rng.random_range(0..header.len()), rng.random_range(0..header.len()));
                let piece = header[from.min(to)..from.max(to)].to_vec();
                let at = rng.random_range(0..header.len());
                header.splice(at..at, piece);
            }
            3 => {
                // Two entries change places: the order of the header does not matter.
                let text = String::from_utf8(header).unwrap();
                let swapped = text.replace("\"a\":", "\"?\":").replace("\"f\":", "\"a\":").replace("\"?\":", "\"f\":");
                header = swapped.into_bytes();
            }
            4 => header.extend(std::iter::repeat_n(b' ', rng.random_range(0..9))),
            5 => data.truncate(rng.random_range(0..=data.len())),
            6 => data.extend(std::iter::repeat_n(0, rng.random_range(0..4))),
            7 => {
                // An entry vanishes and its bytes stay.
                let entries: Vec<usize> = (0..header.len()).filter(|&i| header[i..].starts_with(b"},\"")).collect();
                let which = rng.random_range(0..entries.len() - 1);
                header.drain(entries[which] + 2..entries[which + 1] + 2);
            }
            8 => {
                let at = rng.random_range(0..data.len());
                data[at] ^= 1 << rng.random_range(0..8);
            }
            _ => {
                let names = ["a", "b", "c", "d", "e", "f"];
                let (old, new) = (names[rng.random_range(0..6)], names[rng.random_range(0..6)]);
                let text = String::from_utf8(header).unwrap();
                header = text.replace(&format!("\"{old}\":"), &format!("\"{new}\":")).into_bytes();
            }
        }
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(data);
        if rng.random_range(0..20) == 0 {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.next_u32() as u8;
        }
        bytes
    }

    fn has_a_name_twice(bytes: &[u8]) -> bool {
        let header_bytes = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let pairs: Pairs<serde::de::IgnoredAny> = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
        pairs.duplicate().is_some()
    }

    #[test]
    fn what_we_accept_the_safetensors_crate_reads_alike_and_what_it_refuses_we_refuse() {
        let (sample, mut rng) = (sample(), ChaCha8Rng::seed_from_u64(1));
        assert_eq!(ours(&sample).unwrap(), theirs(&sample).unwrap());
        let (mut accepted, mut refused, mut stricter) = (0, 0, 0);
        for _ in 0..100_000 {
            let bytes = mutated(&sample, &mut rng);
            match (ours(&bytes), theirs(&bytes)) {
                (Ok(ours), Some(theirs)) => {
                    assert_eq!(ours, theirs);
                    accepted += 1;
                }
                (Ok(_), None) => panic!("accepted what the crate refuses: {}", bytes.escape_ascii()),
                (Err(_), None) => refused += 1,
                (Err(error), Some(_)) => {
                    let silent_there = matches!(
                        error,
                        SafetensorsFault::DuplicateTensor { .. }
                            | SafetensorsFault::DuplicateKey { .. }
                            | SafetensorsFault::BadTensorEntry { .. }
                            | SafetensorsFault::HeaderNotObject { .. }
                            | SafetensorsFault::BadTensorName { .. }
                            | SafetensorsFault::BadMetadata { .. }
                            | SafetensorsFault::TooManyAxes { .. }
                    );
                    // The crate keeps the last of two entries of one name, whatever is wrong with the first.
                    let twice = || has_a_name_twice(&bytes);
                    assert!(silent_there || twice(), "{error}: {}", bytes.escape_ascii());
                    stricter += 1;
                }
            }
        }
        assert!(accepted > 10_000 && refused > 10_000 && stricter > 500, "{accepted} {refused} {stricter}");
    }

    #[test]
    fn a_part_of_a_tensor_is_read_from_its_own_first_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, sample()).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        let whole = file.read("a").unwrap();
        assert_eq!(whole.len(), 24);
        assert_eq!(file.read_range("a", 4..16).unwrap(), whole[4..16]);
        assert_eq!(file.metadata(), [("format".to_owned(), "pt".to_owned())]);
        assert!(matches!(file.read("z"), Err(InFile { fault: SafetensorsFault::MissingTensor { .. }, .. })));
        assert!(matches!(file.read_tensor("e"), Err(InFile { fault: SafetensorsFault::UnsupportedDtype { .. }, .. })));
    }

    #[test]
    #[should_panic(expected = "20..25 of 24 bytes")]
    fn no_part_reaches_into_the_next_tensor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, sample()).unwrap();
        let _ = SafetensorsFile::open(&path).unwrap().read_range("a", 20..25);
    }

    #[test]
    fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, sample()).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20).unwrap();
        assert!(matches!(file.read("a"), Err(InFile { fault: SafetensorsFault::File(FileFault::Changed), .. })));
    }
}

//! `model.safetensors.index.json`: the file that holds each tensor.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::fault::HfFault;
use crate::formats::safetensors::MOST_TENSORS;

/// A checked index: each tensor once, and the files in the order of their names.
#[derive(Debug)]
pub(crate) struct ShardIndex {
    /// In the order of the names, each with the index of its file in `shards`.
    tensors: Vec<(String, usize)>,
    shards: Vec<String>,
    total_size: Option<u64>,
}

impl ShardIndex {
    /// Parses the text of an index.
    pub fn parse(text: &[u8]) -> Result<Self, HfFault> {
        let read: Text = serde_json::from_slice(text).map_err(HfFault::Malformed)?;
        let WeightMap { mut tensors, shards, count } = read.weight_map;
        if count > MOST_TENSORS {
            return Err(HfFault::TooMany { found: count, limit: MOST_TENSORS });
        }
        tensors.sort_unstable();
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(HfFault::DuplicateTensor { name: pair[0].0.clone() });
        }
        // The shards are in the order of the text so far.
        let mut order: Vec<usize> = (0..shards.len()).collect();
        order.sort_unstable_by_key(|&i| &shards[i]);
        let mut place = vec![0; shards.len()];
        order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
        tensors.iter_mut().for_each(|(_, shard)| *shard = place[*shard]);
        let shards = order.into_iter().map(|old| shards[old].clone()).collect();
        let total_size = read.metadata.and_then(|metadata| metadata.total_size).and_then(|size| size.0);
        Ok(Self { tensors, shards, total_size })
    }

    /// The files, in the order of their names.
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// Size of all tensors in bytes, according to the index.
    pub fn total_size(&self) -> Option<u64> {
        self.total_size
    }

    /// The index of the file that holds a tensor.
    pub fn shard_of(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|(tensor, _)| tensor.as_str().cmp(name)).ok().map(|i| self.tensors[i].1)
    }

    /// The tensors of a file, in the order of their names.
    pub fn assigned(&self, shard: usize) -> impl Iterator<Item = &str> {
        self.tensors.iter().filter(move |(_, assigned)| *assigned == shard).map(|(name, _)| name.as_str())
    }
}

#[derive(serde::Deserialize)]
struct Text {
    metadata: Option<Metadata>,
    weight_map: WeightMap,
}

#[derive(serde::Deserialize)]
struct Metadata {
    total_size: Option<Size>,
}

/// A number of bytes, or `None` for anything else, which is not an error: the size is only compared.
struct Size(Option<u64>);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor).map(Size)
    }
}

struct SizeVisitor;

impl<'de> Visitor<'de> for SizeVisitor {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a size in bytes")
    }

    fn visit_u64<E>(self, size: u64) -> Result<Self::Value, E> {
        Ok(Some(size))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    /// Some writers compute it by a division.
    fn visit_f64<E>(self, size: f64) -> Result<Self::Value, E> {
        Ok((size >= 0.0 && size.fract() == 0.0 && size < 2f64.powi(53)).then_some(size as u64))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// In the order of the text. At most [`MOST_TENSORS`] are stored, but all are counted.
struct WeightMap {
    tensors: Vec<(String, usize)>,
    shards: Vec<String>,
    count: usize,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors and their files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut read = WeightMap { tensors: Vec::new(), shards: Vec::new(), count: 0 };
        let mut places: HashMap<String, usize> = HashMap::new();
        while read.count < MOST_TENSORS {
            let Some((name, shard)) = map.next_entry::<String, String>()? else { return Ok(read) };
            let place = *places.entry(shard).or_insert_with_key(|shard| {
                read.shards.push(shard.clone());
                read.shards.len() - 1
            });
            read.tensors.push((name, place));
            read.count += 1;
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            read.count += 1;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SAMPLE: &str = r#"{"metadata":{"total_parameters":9,"total_size":72.0},"weight_map":{"lm_head.weight":"model-00002-of-00002.safetensors","model.norm.weight":"model-00001-of-00002.safetensors","model.layers.0.b":"model-00002-of-00002.safetensors"}}"#;

    /// The map of a reader that keeps the last of two equal keys and ignores everything else.
    fn as_a_map(text: &[u8]) -> Option<BTreeMap<String, String>> {
        #[derive(serde::Deserialize)]
        struct Loose {
            weight_map: BTreeMap<String, String>,
        }
        serde_json::from_slice(text).ok().map(|loose: Loose| loose.weight_map)
    }

    /// Chunks of the text change places, vanish, are doubled or damaged.
    fn mutated(rng: &mut ChaCha8Rng) -> Vec<u8> {
        const TOKENS: [&str; 12] =
            ["\"", ",", ":", "{", "}", "[", "null", "1e2", "-1", "\\u0061", "\"weight_map\":{}", "\"total_size\":"];
        let mut text = SAMPLE.as_bytes().to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..text.len());
            let end = rng.random_range(at..text.len().min(at + 40));
            match rng.random_range(0..5) {
                0 => text[at] = rng.random_range(0..=255),
                1 => drop(text.drain(at..end)),
                2 => {
                    let piece = text[at..end].to_vec();
                    let to = rng.random_range(0..text.len());
                    text.splice(to..to, piece);
                }
                3 => drop(text.splice(at..at, TOKENS[rng.random_range(0..TOKENS.len())].bytes())),
                _ => {
                    let names = ["lm_head.weight", "model.norm.weight", "model.layers.0.b", "00001", "00002", "72.0"];
                    let [old, new] = [0; 2].map(|_| names[rng.random_range(0..names.len())]);
                    text = String::from_utf8_lossy(&text).replacen(old, new, 1).into_bytes();
                }
            }
        }
        text
    }

    #[test]
    fn shards_and_tensors_are_in_the_order_of_their_names() {
        let index = ShardIndex::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(index.shards(), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
        assert_eq!(index.assigned(1).collect::<Vec<_>>(), ["lm_head.weight", "model.layers.0.b"]);
        assert_eq!(
            (index.shard_of("model.norm.weight"), index.shard_of("x"), index.total_size()),
            (Some(0), None, Some(72))
        );
    }

    #[test]
    fn a_total_size_that_is_not_a_size_is_ignored() {
        for size in ["-1", "0.5", "\"72\"", "null", "true", "[1,[2]]", "{\"a\":{}}"] {
            let index = ShardIndex::parse(SAMPLE.replace("72.0", size).as_bytes()).unwrap();
            assert_eq!(index.total_size(), None, "{size}");
        }
        assert!(ShardIndex::parse(br#"{"metadata":null,"weight_map":{}}"#).unwrap().shards().is_empty());
    }

    #[test]
    fn an_accepted_index_is_the_map_that_json_says_and_no_other_is_accepted() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (mut accepted, mut refused, mut stricter) = (0, 0, 0);
        for _ in 0..100_000 {
            let text = mutated(&mut rng);
            match (ShardIndex::parse(&text), as_a_map(&text)) {
                (Ok(index), Some(map)) => {
                    let read: BTreeMap<_, _> =
                        index.tensors.iter().map(|(name, i)| (name.clone(), index.shards[*i].clone())).collect();
                    assert_eq!(read, map, "{}", text.escape_ascii());
                    assert_eq!(index.tensors.len(), map.len());
                    accepted += 1;
                }
                (Ok(_), None) => panic!("accepted {}", text.escape_ascii()),
                (Err(_), None) => refused += 1,
                // Duplicate keys, or a `metadata` that is not an object.
                (Err(_), Some(_)) => stricter += 1,
            }
        }
        assert!(accepted > 5_000 && refused > 10_000 && stricter > 500, "{accepted} {refused} {stricter}");
    }
}

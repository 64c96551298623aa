//! GGUF files, field by field, so that every field can be wrong.

/// A file. What is `None` is computed.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    pub keys: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Tensor>,
    pub alignment: u64,
    /// Bytes cut off its end.
    pub missing: usize,
}

/// A value: its type's number, and its bytes.
#[derive(Clone)]
pub struct Value {
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// A tensor.
#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    /// Fastest first, as in the file.
    pub sizes: Vec<u64>,
    pub axes: Option<u32>,
    pub ty: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

pub const F32: u32 = 0;
pub const Q8_0: u32 = 8;

impl Gguf {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(string(key));
            bytes.extend(value.kind.to_le_bytes());
            bytes.extend(&value.bytes);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend(tensor.axes.unwrap_or(tensor.sizes.len() as u32).to_le_bytes());
            bytes.extend(tensor.sizes.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.ty.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            pad(&mut data, self.alignment);
        }
        pad(&mut bytes, self.alignment);
        bytes.extend(data);
        bytes.truncate(bytes.len().saturating_sub(self.missing));
        bytes
    }

    /// The same with a key, in place of one of that name.
    pub fn with(self, key: &str, value: Value) -> Self {
        self.without(key).and(key.as_bytes(), value)
    }

    /// The same without a key.
    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(there, _)| there != key.as_bytes());
        self
    }

    /// The same with one more key, whatever is there.
    pub fn and(mut self, key: &[u8], value: Value) -> Self {
        self.keys.push((key.into(), value));
        self
    }

    /// The same after a change of the tensor of this name.
    pub fn tensor(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).expect("a tensor of this name"));
        self
    }

    /// The same with one more norm, of this name.
    pub fn and_norm(mut self, name: &[u8]) -> Self {
        self.tensors.push(vector(name));
        self
    }
}

const HIDDEN: u64 = 32;

fn matrix(name: &str, rows: u64, columns: u64) -> Tensor {
    let data = vec![0; (rows * columns / 32 * 34) as usize];
    Tensor { name: name.into(), sizes: vec![columns, rows], axes: None, ty: Q8_0, offset: None, data }
}

fn vector(name: &[u8]) -> Tensor {
    let data = vec![0; 4 * HIDDEN as usize];
    Tensor { name: name.into(), sizes: vec![HIDDEN], axes: None, ty: F32, offset: None, data }
}

/// A Llama of one layer, all of whose weights are zero: matrices in Q8_0, norms in F32; with a vocabulary.
pub fn llama() -> Gguf {
    let (inner, vocabulary) = (64, 4);
    let keys = [
        ("general.architecture", text("llama")),
        ("llama.block_count", u32_(1)),
        ("llama.context_length", u32_(8)),
        ("llama.embedding_length", u32_(HIDDEN as u32)),
        ("llama.feed_forward_length", u32_(inner as u32)),
        ("llama.attention.head_count", u32_(2)),
        ("llama.attention.head_count_kv", u32_(1)),
        ("llama.attention.layer_norm_rms_epsilon", f32_(1e-5)),
        ("llama.rope.dimension_count", u32_(16)),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "a"])),
        ("tokenizer.ggml.scores", array(6, &[0f32; 4].map(f32::to_le_bytes))),
        ("tokenizer.ggml.token_type", array(5, &[2i32, 3, 3, 1].map(i32::to_le_bytes))),
        ("tokenizer.ggml.bos_token_id", u32_(1)),
        ("tokenizer.ggml.add_bos_token", Value { kind: 7, bytes: vec![1] }),
    ];
    Gguf {
        version: 3,
        tensor_count: None,
        key_count: None,
        keys: keys.map(|(key, value)| (key.into(), value)).to_vec(),
        tensors: vec![
            matrix("token_embd.weight", vocabulary, HIDDEN),
            vector(b"blk.0.attn_norm.weight"),
            matrix("blk.0.attn_q.weight", 32, HIDDEN),
            matrix("blk.0.attn_k.weight", 16, HIDDEN),
            matrix("blk.0.attn_v.weight", 16, HIDDEN),
            matrix("blk.0.attn_output.weight", HIDDEN, 32),
            vector(b"blk.0.ffn_norm.weight"),
            matrix("blk.0.ffn_gate.weight", inner, HIDDEN),
            matrix("blk.0.ffn_up.weight", inner, HIDDEN),
            matrix("blk.0.ffn_down.weight", HIDDEN, inner),
            vector(b"output_norm.weight"),
        ],
        alignment: 32,
        missing: 0,
    }
}

/// Its parts, as llama.cpp splits a file: the first has the keys, and all have their numbers.
pub fn parts(count: u16) -> Vec<Gguf> {
    let whole = llama();
    let total = whole.tensors.len();
    let chunks = whole.tensors.chunks(total.div_ceil(usize::from(count))).map(<[Tensor]>::to_vec);
    let part = |(number, tensors): (u16, Vec<Tensor>)| {
        let keys = if number == 0 { whole.keys.clone() } else { Vec::new() };
        Gguf { keys, tensors, ..llama() }
            .with("split.no", u16_(number))
            .with("split.count", u16_(count))
            .with("split.tensors.count", Value { kind: 5, bytes: (total as i32).to_le_bytes().into() })
    };
    (0..).zip(chunks).map(part).collect()
}

pub fn u16_(value: u16) -> Value {
    Value { kind: 2, bytes: value.to_le_bytes().into() }
}

pub fn u32_(value: u32) -> Value {
    Value { kind: 4, bytes: value.to_le_bytes().into() }
}

pub fn f32_(value: f32) -> Value {
    Value { kind: 6, bytes: value.to_le_bytes().into() }
}

pub fn text(value: &str) -> Value {
    Value { kind: 8, bytes: string(value.as_bytes()) }
}

pub fn texts(values: &[&str]) -> Value {
    let strings: Vec<Vec<u8>> = values.iter().map(|value| string(value.as_bytes())).collect();
    array(8, &strings)
}

/// An array of values of a type, each as its bytes.
pub fn array(element: u32, values: &[impl AsRef<[u8]>]) -> Value {
    let bytes = values.iter().flat_map(|value| value.as_ref().to_vec()).collect();
    announced(element, values.len() as u64, bytes)
}

/// An array that announces `count` values.
pub fn announced(element: u32, count: u64, bytes: Vec<u8>) -> Value {
    Value { kind: 9, bytes: [&element.to_le_bytes()[..], &count.to_le_bytes(), &bytes].concat() }
}

pub fn string(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value].concat()
}

fn pad(bytes: &mut Vec<u8>, alignment: u64) {
    bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
}

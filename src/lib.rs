//! **deepwide** grows a pretrained decoder language model deep (depth up-scaling, DUS: SOLAR) or wide (sparse
//! mixture of experts: Mixtral, by sparse upcycling), and measures which pays: quality, FLOPs, memory and latency at
//! matched cost.
//!
//! # Code map
//!
//! ```text
//! files ─▶ weights ─▶ growth ─▶ model ─┬▶ train   ─▶ (model, StepLog) ─┐
//!         (source)   (a view   (CausalLm)├▶ eval    ─▶ losses            ├▶ study ─▶ report ─▶ figure
//!                    on a source)       └▶ profile ─▶ costs, timings    ┘
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the checked shape of a decoder; presets by published name |
//! | [`weights`] | named tensors, wherever they are: Hugging Face directories, memory |
//! | [`growth`] | plans that make a deeper or wider source of a source, without touching a weight |
//! | [`kernel`] | the operations that decide speed, each beside its reference |
//! | [`trace`] | spans that say where the time of a pass goes, recorded on request |
//! | [`model`] | the decoder, dense or sparse, behind [`CausalLm`](model::CausalLm) |
//! | [`tokenizer`], [`data`] | text and the built-in synthetic language, as windows of token ids |
//! | [`train`], [`eval`], [`profile`] | free functions over a model: better, how good, how costly |
//! | [`study`] | arms grown from one base, trained at matched FLOPs, measured alike |
//! | [`report`], [`figure`] | plain records of a study; the table, the verdict and the pictures made of them |
//! | [`cli`] | what the commands do: arguments in, files out, exit codes |
//!
//! # Invariants
//!
//! - A stage takes values and returns values; a module uses only modules that stand before it in the flow. A test
//!   holds the table of who may use whom.
//! - Growth is a view: a model is loaded from it, never operated on, so no two layers share a parameter.
//! - Dense and sparse decoders differ in one type parameter and nowhere else.
//! - Whatever comes from outside is checked once, at the door, by a type that cannot hold nonsense afterwards.
//! - The backend is a [`Device`](burn::tensor::Device) chosen at run time among those compiled in.

pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod figure;
pub mod formats;
pub mod growth;
pub mod hub;
pub mod kernel;
pub mod model;
pub mod output;
pub mod profile;
pub mod report;
pub mod study;
pub mod tokenizer;
pub mod trace;
pub mod train;
pub mod weights;

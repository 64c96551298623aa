//! Benchmarks for development. `cargo bench --profile dev` shares the build of the tests.

mod decoder;
mod operations;

criterion::criterion_main!(decoder::benches, operations::benches);

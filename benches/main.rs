//! Timings for development, one module a subject: `cargo bench --profile dev` shares the build of the tests.

mod decoder;
mod operations;

criterion::criterion_main!(decoder::benches, operations::benches);

//! The test suite: one binary, a module a subject.

mod transformers;

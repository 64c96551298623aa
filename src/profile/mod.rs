//! The cost of a decoder: parameters, operations and bytes counted from its config, time and memory measured.

pub mod flops;
pub mod heap;
pub mod inspection;
pub mod matching;
pub mod memory;
pub mod other_load;
pub mod peak;
pub mod system_memory;
pub mod throughput;
pub mod training_memory;

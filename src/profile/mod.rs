//! What a decoder costs: parameters, operations and bytes, counted from its config.

pub mod flops;
pub mod heap;
pub mod inspection;
pub mod matching;
pub mod memory;
pub mod other_load;
pub mod system_memory;
pub mod throughput;

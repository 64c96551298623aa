//! The cost of a decoder: parameters, operations and bytes counted from its config, time and memory measured.

pub mod convention;
pub mod device_memory;
pub mod energy;
pub mod flops;
pub mod hardware;
pub mod heap;
pub mod inference_memory;
pub mod inspection;
pub mod matching;
pub mod memory;
pub mod memory_check;
pub mod memory_report;
pub mod memory_timeline;
mod module_cost;
mod module_profile;
mod module_time;
pub mod nvidia;
pub mod other_load;
pub mod peak;
mod profile_test;
pub mod system_memory;
pub mod throughput;
mod timing;
pub mod training_memory;

pub use module_cost::{BytesPerNumber, ModuleCost, module_costs};
pub use module_profile::{Counting, ModuleProfile, ModuleRow};
pub use module_time::{ModuleTime, module_times};
pub use profile_test::ProfileTest;
pub use timing::Timing;

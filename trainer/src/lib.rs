//! Trains and scores Chinese-CLIP: reads one file, serves one port, writes one prefix, exits with a
//! code. Knows nothing of Kubernetes.

pub mod bench;
pub mod checkpoint;
pub mod device_placement;
pub mod error;
pub mod evaluate;
pub mod hub;
pub mod interop;
pub mod memory_limit;
pub mod model_resolver;
pub mod report;
pub mod stage_chain;
pub mod train;
pub mod weights;

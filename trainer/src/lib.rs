//! Trains and scores Chinese-CLIP: reads one file, serves one port, writes one prefix, exits with a
//! code. Knows nothing of Kubernetes.

pub mod bench;
pub mod checkpoint;
pub mod error;
pub mod evaluate;
pub mod exchange;
pub mod hub;
pub mod lineage;
pub mod memory_limit;
pub mod place;
pub mod report;
pub mod source;
pub mod train;
pub mod weights;

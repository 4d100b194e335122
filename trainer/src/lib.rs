//! Trains and scores Chinese-CLIP: reads one file, serves one port, writes one prefix, exits with a
//! code. Knows nothing of Kubernetes.

pub mod accumulate;
pub mod array;
pub mod average;
pub mod bench;
pub mod checkpoint;
pub mod cuda;
pub mod data;
pub mod device;
pub mod distillation;
pub mod error;
pub mod evaluate;
pub mod exchange;
pub mod hub;
pub mod lineage;
pub mod loss;
pub mod memory;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod params;
pub mod place;
pub mod report;
pub mod schedule;
pub mod source;
pub mod store;
pub mod train;
pub mod weights;
pub mod world;

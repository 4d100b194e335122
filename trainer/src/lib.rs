//! Trains and scores Chinese-CLIP: reads one file, serves one port, writes one prefix, exits with a
//! code. Knows nothing of Kubernetes.

pub mod bench;
pub mod checkpoint;
pub mod config_file;
pub mod device_placement;
mod duration;
pub mod error;
pub mod evaluate;
pub mod evaluation_job;
mod host_memory;
pub mod hub;
pub mod interop;
pub mod model_resolver;
pub mod page;
pub mod progress;
mod rank_values;
pub mod stage_chain;
pub mod stop;
mod text_table;
mod thread_dump;
mod threads;
pub mod train;
pub mod verify;
pub mod weights;

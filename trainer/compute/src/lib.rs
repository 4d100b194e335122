//! Tensors, devices and operations: the arithmetic of training, written out forward and backward over flat
//! parameters. Knows no model, no file and no network.

pub mod collective;
pub mod cuda;
pub mod device;
pub mod digest;
pub mod gemm;
pub mod math;
pub mod ops;
pub mod params;
pub mod random;
pub mod tensor;

//! Tensors, devices and operations: the arithmetic of training, forward and backward, over flat parameters. Models,
//! files and networks are other crates'.

pub mod collective;
pub mod cuda;
pub mod device;
pub mod digest;
pub mod gemm;
pub mod math;
pub mod nearest_neighbors;
pub mod ops;
pub mod params;
pub mod random;
pub mod sync;
pub mod tensor;

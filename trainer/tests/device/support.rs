//! The device under test, numbers to give it, and how near its answers must be.

use std::sync::LazyLock;

use cnclip_compute::device::{DType, Device};
use cnclip_compute::random::{derive_key, uniform_f32};
use cnclip_compute::tensor::Memory;
use cnclip_crds::stage::Precision;
use cnclip_emulator::Emulator;
use half::bf16;

/// The device that operations are tried on.
pub(crate) static DEVICE: LazyLock<Device> = LazyLock::new(open);

/// Whether devices are emulated.
pub(crate) fn is_emulated() -> bool {
    std::env::var("CNCLIP_DEVICE").as_deref() != Ok("cuda")
}

/// A device of its own. All ranks of a test share one card, whose NCCL must be told that they may.
pub(crate) fn open() -> Device {
    if is_emulated() {
        Emulator::new_device(1 << 34)
    } else {
        cnclip_compute::cuda::open_device(0).unwrap()
    }
}

/// Both formats of activations.
pub(crate) const FORMATS: [DType; 2] = [DType::F32, DType::Bf16];

/// The memory of the device whose activations have a format.
pub(crate) fn memory(format: DType) -> Memory {
    Memory::Device(DEVICE.clone(), precision(format))
}

/// The precision whose activations have a format.
pub(crate) fn precision(format: DType) -> Precision {
    if format == DType::Bf16 {
        Precision::Bf16
    } else {
        Precision::Fp32
    }
}

/// Numbers in [-1, 1), representable in the format; another seed, other numbers.
pub(crate) fn numbers(len: usize, seed: u64, format: DType) -> Vec<f32> {
    let number = |i: usize| 2.0 * uniform_f32(derive_key(seed, i as u64)) - 1.0;
    (0..len)
        .map(number)
        .map(|value| rounded(value, format))
        .collect()
}

/// A number as a format keeps it.
pub(crate) fn rounded(value: f32, format: DType) -> f32 {
    if format == DType::Bf16 {
        bf16::from_f32(value).to_f32()
    } else {
        value
    }
}

//! The device under test, numbers to give it, and how close its results must be.

use std::sync::LazyLock;

use cnclip_compute::device::{DType, Device, DeviceBuffer};
use cnclip_compute::random::{derive_key, uniform_f32};
use cnclip_compute::tensor::Memory;
use cnclip_crds::stage::Precision;
use cnclip_emulator::Emulator;
use half::bf16;

/// The device under test.
pub(crate) static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    if std::env::var("CNCLIP_DEVICE").as_deref() == Ok("cuda") {
        cnclip_compute::cuda::open_device(0).unwrap()
    } else {
        Emulator::new_device(1 << 34)
    }
});

/// Both number formats of activations.
pub(crate) const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

/// The memory of the device whose activations have a number format.
pub(crate) fn device_memory(dtype: DType) -> Memory {
    Memory::Device(DEVICE.clone(), precision(dtype))
}

/// The precision whose activations have a number format.
pub(crate) fn precision(dtype: DType) -> Precision {
    if dtype == DType::Bf16 {
        Precision::Bf16
    } else {
        Precision::Fp32
    }
}

/// Numbers in [-1, 1) that the format can represent; another seed, other numbers.
pub(crate) fn uniform_values(len: usize, seed: u64, dtype: DType) -> Vec<f32> {
    let value = |i: usize| 2.0 * uniform_f32(derive_key(seed, i as u64)) - 1.0;
    (0..len).map(|i| round_to_dtype(value(i), dtype)).collect()
}

/// The number of a format that is closest.
pub(crate) fn round_to_dtype(value: f32, dtype: DType) -> f32 {
    if dtype == DType::Bf16 {
        bf16::from_f32(value).to_f32()
    } else {
        value
    }
}

/// Numbers on the device.
pub(crate) fn upload(values: &[f32], dtype: DType) -> DeviceBuffer {
    let mut buffer = DeviceBuffer::new(&DEVICE, values.len(), dtype);
    buffer.as_view_mut().copy_from_host(values);
    buffer
}

/// Weights on the device, with a bfloat16 copy if activations are bfloat16.
pub(crate) fn upload_weights(values: &[f32], dtype: DType) -> DeviceBuffer {
    let buffer = DeviceBuffer::new(&DEVICE, values.len(), DType::F32);
    let mut buffer = if dtype == DType::Bf16 {
        buffer.with_bf16_copy()
    } else {
        buffer
    };

    buffer.as_view_mut().copy_from_host(values);
    buffer
}

/// Indices on the device.
pub(crate) fn upload_indices(values: &[u32]) -> DeviceBuffer {
    let mut buffer = DeviceBuffer::new(&DEVICE, values.len(), DType::U32);
    buffer.upload_u32(values);
    buffer
}

/// Fails unless the device's numbers are the CPU's: to 1e-5 of the largest, or for numbers that are rounded
/// to bfloat16 on the way to `roundings` halves of a last bit.
pub(crate) fn assert_device_close(
    what: &str,
    found: &DeviceBuffer,
    expected: &[f32],
    dtype: DType,
    roundings: f32,
) {
    let found = found.as_view().to_host();
    DEVICE.synchronize().unwrap();
    let tolerance = if dtype == DType::Bf16 {
        roundings / 256.0
    } else {
        1e-5
    };

    assert_relative(&format!("{what} {dtype:?}"), &found, expected, tolerance);
}

/// Fails unless all numbers agree to a tolerance times the largest of them.
pub(crate) fn assert_relative(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(1e-6_f32, |largest, value| largest.max(value.abs()));

    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance * largest,
            "{what}: number {i} is {found}, not {expected} (largest {largest})"
        );
    }
}

//! A self-test of a device: one kernel and one matrix product, compared with the CPU's results.

use half::bf16;

use super::{DType, Device, DeviceBuffer, DeviceError, Gemm, MatrixDesc};
use crate::device::DeviceView;

// Three different sizes, so that exchanged dimensions do not go unnoticed.
const ROWS: usize = 48;
const INNER: usize = 64;
const COLS: usize = 80;

/// Rounds numbers to bfloat16 and multiplies matrices on a device.
///
/// # Errors
/// If it cannot, or if its results differ from the CPU's.
pub fn run_self_test(device: &Device) -> Result<(), DeviceError> {
    let a = test_values(ROWS * INNER, 7);
    let b = test_values(INNER * COLS, 11);
    let near = round_on_device(device, &a)?;
    let far = round_on_device(device, &b)?;
    let mut target = DeviceBuffer::new(device, ROWS * COLS, DType::F32);
    let product = Gemm::new(
        MatrixDesc::new(target.as_view(), COLS),
        MatrixDesc::new(near.as_view(), INNER),
        MatrixDesc::new(far.as_view(), COLS),
    );

    device.gemm(&product);
    let found = download_checked(device, target.as_view_mut().as_view())?;
    // The device adds in another order: 1e-3 allows for the rounding of 64 terms in fp32, but not
    // for sums in bfloat16.
    ensure_close("multiplied matrices", &found, &reference_gemm(&a, &b), 1e-3)
}

/// Numbers of both signs between −1 and 1.
fn test_values(count: usize, step: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * step % 997) as f32 / 498.0) - 1.0)
        .collect()
}

fn round_on_device(device: &Device, values: &[f32]) -> Result<DeviceBuffer, DeviceError> {
    let mut exact = DeviceBuffer::new(device, values.len(), DType::F32);
    exact.as_view_mut().copy_from_host(values);
    let mut rounded = DeviceBuffer::new(device, values.len(), DType::Bf16);
    rounded.as_view_mut().copy_from(exact.as_view());
    // Compared without tolerance: rounding to nearest, ties to even, has one result.
    let here: Vec<f32> = values.iter().copied().map(round_to_bf16).collect();

    ensure_close(
        "rounded numbers",
        &download_checked(device, rounded.as_view())?,
        &here,
        0.0,
    )?;

    Ok(rounded)
}

fn round_to_bf16(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

fn download_checked(device: &Device, span: DeviceView<'_>) -> Result<Vec<f32>, DeviceError> {
    let values = span.to_host();
    // After an error the numbers are zeros: it is reported instead of a wrong result.
    device.synchronize()?;
    Ok(values)
}

fn reference_gemm(a: &[f32], b: &[f32]) -> Vec<f32> {
    let cell = |i: usize| {
        let row = i / COLS;
        let col = i % COLS;
        let term = |k: usize| round_to_bf16(a[row * INNER + k]) * round_to_bf16(b[k * COLS + col]);
        (0..INNER).map(term).sum()
    };

    (0..ROWS * COLS).map(cell).collect()
}

fn ensure_close(
    what: &str,
    found: &[f32],
    expected: &[f32],
    tolerance: f32,
) -> Result<(), DeviceError> {
    // A comparison with NaN is false, so that NaN counts as wrong.
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
    let wrong = found.iter().zip(expected).position(|pair| !near(pair));
    let Some(i) = wrong else { return Ok(()) };
    let found = found[i];
    let expected = expected[i];
    let words = format!("number {i} is {found}, the CPU computes {expected}");

    Err(DeviceError::failed(
        format!("the device {what} wrongly"),
        words,
    ))
}

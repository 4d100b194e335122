//! Whether a device computes at all: one kernel and one product, held against this machine's.

use half::bf16;

use super::{Buffer, Device, Fault, Format, Operand, Product};
use crate::device::Span;

const ROWS: usize = 48;
const INNER: usize = 64;
const COLS: usize = 80;

/// Has a device round numbers to bfloat16 and multiply them.
///
/// # Errors
/// If it cannot, or if it finds other numbers than this machine.
pub fn prove(device: &Device) -> Result<(), Fault> {
    let a = numbers(ROWS * INNER, 7);
    let b = numbers(INNER * COLS, 11);
    let near = round(device, &a)?;
    let far = round(device, &b)?;
    let mut target = Buffer::new(device, ROWS * COLS, Format::F32);
    let product = Product::new(
        Operand::new(target.span(), COLS),
        Operand::new(near.span(), INNER),
        Operand::new(far.span(), COLS),
    );

    device.multiply(&product);
    let found = read(device, target.span_mut().span())?;
    compare("multiplied matrices", &found, &multiply(&a, &b), 1e-3)
}

/// Numbers of both signs between −1 and 1.
fn numbers(count: usize, step: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * step % 997) as f32 / 498.0) - 1.0)
        .collect()
}

fn round(device: &Device, values: &[f32]) -> Result<Buffer, Fault> {
    let mut exact = Buffer::new(device, values.len(), Format::F32);
    exact.span_mut().upload(values);
    let mut rounded = Buffer::new(device, values.len(), Format::Bf16);
    rounded.span_mut().copy_from(exact.span());
    let here: Vec<f32> = values.iter().copied().map(rounding).collect();

    compare(
        "rounded numbers",
        &read(device, rounded.span())?,
        &here,
        0.0,
    )?;

    Ok(rounded)
}

fn rounding(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

fn read(device: &Device, span: Span<'_>) -> Result<Vec<f32>, Fault> {
    let values = span.download();
    device.check()?;
    Ok(values)
}

fn multiply(a: &[f32], b: &[f32]) -> Vec<f32> {
    let cell = |i: usize| {
        let row = i / COLS;
        let col = i % COLS;
        let term = |k: usize| rounding(a[row * INNER + k]) * rounding(b[k * COLS + col]);
        (0..INNER).map(term).sum()
    };

    (0..ROWS * COLS).map(cell).collect()
}

fn compare(what: &str, found: &[f32], expected: &[f32], tolerance: f32) -> Result<(), Fault> {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
    let wrong = found.iter().zip(expected).position(|pair| !near(pair));
    let Some(i) = wrong else { return Ok(()) };
    let found = found[i];
    let expected = expected[i];
    let words = format!("number {i} is {found}, this machine finds {expected}");

    Err(Fault::broken(format!("the device {what} wrongly"), words))
}

//! Pictures as the towers take them: normalised on the way in, cut into patches for a transformer.

pub mod gpu;

use std::ops::Range;

use rayon::prelude::*;

use crate::device::{DeviceBuffer, DeviceView};
use crate::tensor::{IndexView, Memory, TensorView, TensorViewMut, panic_mixed_memories};

/// Mean of each channel of the training pictures of CLIP, in [0, 1].
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Standard deviation of each channel.
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A batch of square pictures.
///
/// # Shapes
/// [batch, 3, side, side]
#[derive(Clone, Copy, Debug)]
pub enum PixelBatch<'a> {
    /// Red, green and blue as decoded, normalised when they are read.
    Bytes(&'a [u8]),
    /// Normalised already.
    Normalized(&'a [f32]),
    /// As decoded, in a device's memory.
    Device(DeviceView<'a>),
}

impl<'a> PixelBatch<'a> {
    /// Some of the numbers.
    pub fn slice(self, range: Range<usize>) -> PixelBatch<'a> {
        match self {
            Self::Bytes(bytes) => Self::Bytes(&bytes[range]),
            Self::Normalized(values) => Self::Normalized(&values[range]),
            Self::Device(bytes) => Self::Device(bytes.slice(range)),
        }
    }

    /// Numbers in the batch.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Normalized(values) => values.len(),
            Self::Device(bytes) => bytes.len(),
        }
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads normalised neighbours of one channel, starting at `start` of the whole array.
    pub fn read_normalized(&self, start: usize, channel: usize, out: &mut [f32]) {
        match self {
            Self::Bytes(bytes) => {
                let scale = 1.0 / (255.0 * CLIP_STD[channel]);
                let shift = -CLIP_MEAN[channel] / CLIP_STD[channel];
                let bytes = &bytes[start..start + out.len()];
                out.iter_mut()
                    .zip(bytes)
                    .for_each(|(o, &b)| *o = f32::from(b) * scale + shift);
            }
            Self::Normalized(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Self::Device(_) => panic_mixed_memories(),
        }
    }
}

/// Where a tower puts pictures before it looks at them: on a device, which gets them as bytes.
#[derive(Debug)]
pub struct PixelBuffers(Option<DeviceBuffer>);

impl PixelBuffers {
    /// Room for so many numbers of pictures.
    pub fn new(memory: &Memory, numbers: usize) -> Self {
        Self(memory.alloc_bytes(numbers))
    }

    /// The same pictures where the tower computes. Those that are normalised already stay where they are.
    pub fn upload_pixels<'a>(&'a mut self, pixels: PixelBatch<'a>) -> PixelBatch<'a> {
        match (&mut self.0, pixels) {
            (Some(plate), PixelBatch::Bytes(bytes)) => {
                PixelBatch::Device(plate.upload_bytes(bytes))
            }
            _ => pixels,
        }
    }
}

/// Writes the patches that are seen of each picture as rows behind one row of zeros, the class
/// token's: a convolution whose stride is its size is then one matrix product.
///
/// # Shapes
/// `patches` [batch, 1 + seen, 3 · patch²]
pub fn extract_patches(
    pixels: PixelBatch<'_>,
    (side, patch): (usize, usize),
    seen: IndexView<'_>,
    patches: TensorViewMut<'_>,
) {
    match (pixels, patches) {
        (PixelBatch::Device(pixels), TensorViewMut::Device(mut patches)) => {
            gpu::extract_patches(pixels, (side, patch), seen.expect_device(), &mut patches);
        }
        (_, patches) => {
            write_from_host(patches, |patches| {
                extract_patches_host(pixels, (side, patch), seen.expect_host(), patches)
            });
        }
    }
}

/// Writes what this machine makes of pixels that lie in its memory. Only pictures that other programs
/// normalised take this way to a device.
fn write_from_host(mut out: TensorViewMut<'_>, make: impl FnOnce(&mut [f32])) {
    match out {
        TensorViewMut::Host(out) => make(out),
        TensorViewMut::Device(_) => {
            let mut values = vec![0.0; out.len()];
            make(&mut values);
            out.copy_from(TensorView::Host(&values));
        }
    }
}

fn extract_patches_host(
    pixels: PixelBatch<'_>,
    (side, patch): (usize, usize),
    seen: &[u32],
    patches: &mut [f32],
) {
    let grid = side / patch;
    let row = 3 * patch * patch;
    let of_picture = seen.len() / (pixels.len() / (3 * side * side));
    let pictures = patches
        .par_chunks_mut((1 + of_picture) * row)
        .zip(seen.par_chunks(of_picture));

    pictures.enumerate().for_each(|(sample, (patches, seen))| {
        let (class, patches) = patches.split_at_mut(row);
        class.fill(0.0);
        for (at, line) in patches.chunks_exact_mut(patch).enumerate() {
            let place = seen[at / (3 * patch)] as usize;
            let line_of_patch = at % (3 * patch);
            let channel = line_of_patch / patch;
            let y = line_of_patch % patch;
            let top = place / grid * patch;
            let left = place % grid * patch;
            let start = ((sample * 3 + channel) * side + top + y) * side + left;

            pixels.read_normalized(start, channel, line);
        }
    });
}

/// Writes each picture with its channels as neighbours: what a convolution takes.
///
/// # Shapes
/// `out` [batch, side, side, 3]
pub fn nchw_to_nhwc(pixels: PixelBatch<'_>, side: usize, out: TensorViewMut<'_>) {
    match (pixels, out) {
        (PixelBatch::Device(pixels), TensorViewMut::Device(mut out)) => {
            gpu::nchw_to_nhwc(pixels, side, &mut out);
        }
        (_, out) => write_from_host(out, |out| nchw_to_nhwc_host(pixels, side, out)),
    }
}

fn nchw_to_nhwc_host(pixels: PixelBatch<'_>, side: usize, out: &mut [f32]) {
    /// Neighbours of one channel that are read at a time.
    const RUN: usize = 64;
    out.par_chunks_mut(3 * side)
        .enumerate()
        .for_each(|(line, out)| {
            let sample = line / side;
            let y = line % side;
            let mut run = [0.0; RUN];

            for channel in 0..3 {
                let start = ((sample * 3 + channel) * side + y) * side;
                for (at, out) in out.chunks_mut(3 * RUN).enumerate() {
                    let run = &mut run[..out.len() / 3];
                    pixels.read_normalized(start + at * RUN, channel, run);
                    out[channel..]
                        .iter_mut()
                        .step_by(3)
                        .zip(run)
                        .for_each(|(out, value)| *out = *value);
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_normalised_to_the_references_scale() {
        let mut out = [0.0; 2];
        for (channel, right) in [
            [-1.792_262_7, 1.930_336_3],
            [-1.752_097_3, 2.074_883_7],
            [-1.480_219_7, 2.145_896_7],
        ]
        .iter()
        .enumerate()
        {
            PixelBatch::Bytes(&[9, 0, 255, 9]).read_normalized(1, channel, &mut out);
            assert!(
                out.iter()
                    .zip(right)
                    .all(|(a, b): (&f32, &f32)| (a - b).abs() < 1e-5),
                "{out:?}"
            );
        }
    }

    #[test]
    fn a_patch_holds_its_square_of_each_channel() {
        let pixels: Vec<f32> = (0..3 * 16).map(|i| i as f32).collect();
        let second = [
            2.0, 3.0, 6.0, 7.0, 18.0, 19.0, 22.0, 23.0, 34.0, 35.0, 38.0, 39.0,
        ];

        for (seen, at) in [(&[0, 1, 2, 3][..], 24), (&[1, 3], 12)] {
            let mut patches = vec![9.0; (1 + seen.len()) * 12];
            let pixels = PixelBatch::Normalized(&pixels);
            extract_patches(pixels, (4, 2), seen.into(), (&mut patches).into());
            assert_eq!(patches[..12], [0.0; 12]);
            assert_eq!(patches[at..at + 12], second);
        }
    }

    #[test]
    fn interleaved_channels_are_neighbours() {
        let side = 96;
        let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|i| i as f32).collect();
        let mut out = vec![9.0; pixels.len()];
        nchw_to_nhwc(PixelBatch::Normalized(&pixels), side, (&mut out).into());

        for (at, value) in out.iter().enumerate() {
            let place = at / 3;
            let channel = at % 3;
            let sample = place / (side * side);
            let place = place % (side * side);
            assert_eq!(*value, pixels[(sample * 3 + channel) * side * side + place]);
        }
    }
}

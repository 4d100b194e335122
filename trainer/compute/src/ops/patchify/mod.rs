//! Images as the towers take them: normalized as they are read, and cut into patches for a transformer.

mod cpu;
mod gpu;

use std::ops::Range;

use crate::device::{DeviceBuffer, DeviceView};
use crate::tensor::{IndexView, Memory, TensorView, TensorViewMut, panic_mixed_memories};

/// Mean of each channel of CLIP's training images, where 1 is the brightest level.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Standard deviation of each channel of CLIP's training images.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A batch of square images.
///
/// # Shapes
/// `[batch, 3, side, side]`
///
/// ```
/// use cnclip_compute::ops::patchify::{CLIP_MEAN, CLIP_STD, PixelBatch};
///
/// let mut red = [0.0];
/// PixelBatch::Bytes(&[255]).read_normalized(0, 0, &mut red);
/// assert!((red[0] - (1.0 - CLIP_MEAN[0]) / CLIP_STD[0]).abs() < 1e-5);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum PixelBatch<'a> {
    /// Red, green and blue as decoded, normalized when they are read.
    Bytes(&'a [u8]),
    /// Normalized already.
    Normalized(&'a [f32]),
    /// As decoded, in a device's memory.
    Device(DeviceView<'a>),
}

impl<'a> PixelBatch<'a> {
    /// A range of the numbers.
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

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads consecutive pixels of one channel, normalized; the first has the index `start` in the batch.
    pub fn read_normalized(&self, start: usize, channel: usize, out: &mut [f32]) {
        match self {
            Self::Bytes(bytes) => {
                // One multiplication and one addition a pixel: (b / 255 - mean) / std, rearranged.
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

/// A tower's copy of the pixels in a device's memory, where they are uploaded as bytes: a quarter of fp32.
#[derive(Debug)]
pub struct PixelBuffers(Option<DeviceBuffer>);

impl PixelBuffers {
    /// Memory for so many pixels, of all channels; none where the tower computes on the CPU.
    pub fn new(memory: &Memory, numbers: usize) -> Self {
        Self(memory.alloc_bytes(numbers))
    }

    /// The same pixels in the memory that the tower computes in; normalized ones stay where they are.
    pub fn upload_pixels<'a>(&'a mut self, pixels: PixelBatch<'a>) -> PixelBatch<'a> {
        match (&mut self.0, pixels) {
            (Some(buffer), PixelBatch::Bytes(bytes)) => {
                PixelBatch::Device(buffer.upload_bytes(bytes))
            }
            _ => pixels,
        }
    }
}

/// Writes the visible patches of each image as rows behind one row of zeros, the class token's: a
/// convolution whose stride is its kernel size is then one matrix product.
///
/// # Shapes
/// `pixels` `[batch, 3, side, side]`; `visible` `[batch, visible patches]`; `patches`
/// `[batch, 1 + visible patches, 3 · patch²]`, where `patch` is the side of a patch.
pub fn extract_patches(
    pixels: PixelBatch<'_>,
    side: usize,
    patch: usize,
    visible: IndexView<'_>,
    patches: TensorViewMut<'_>,
) {
    match (pixels, patches) {
        (PixelBatch::Device(pixels), TensorViewMut::Device(mut patches)) => {
            gpu::extract_patches(pixels, side, patch, visible.expect_device(), &mut patches);
        }
        (_, patches) => write_from_host(patches, |patches| {
            cpu::extract_patches(pixels, side, patch, visible.expect_host(), patches)
        }),
    }
}

/// Transposes each image to channels last: what a convolution takes.
///
/// # Shapes
/// `pixels` `[batch, 3, side, side]`, `out` `[batch, side, side, 3]`.
pub fn nchw_to_nhwc(pixels: PixelBatch<'_>, side: usize, out: TensorViewMut<'_>) {
    match (pixels, out) {
        (PixelBatch::Device(pixels), TensorViewMut::Device(mut out)) => {
            gpu::nchw_to_nhwc(pixels, side, &mut out);
        }
        (_, out) => write_from_host(out, |out| cpu::nchw_to_nhwc(pixels, side, out)),
    }
}

/// Computes from pixels in this machine's memory and uploads the result. Only images that another program
/// normalized take this way to a device: tests against golden values.
fn write_from_host(mut out: TensorViewMut<'_>, compute: impl FnOnce(&mut [f32])) {
    match out {
        TensorViewMut::Host(out) => compute(out),
        TensorViewMut::Device(_) => {
            let mut values = vec![0.0; out.len()];
            compute(&mut values);
            out.copy_from(TensorView::Host(&values));
        }
    }
}

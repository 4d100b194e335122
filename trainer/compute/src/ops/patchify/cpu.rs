//! Patches and channels-last images on the CPU.

use rayon::prelude::*;

use super::PixelBatch;

pub(super) fn extract_patches(
    pixels: PixelBatch<'_>,
    side: usize,
    patch: usize,
    visible: &[u32],
    patches: &mut [f32],
) {
    let grid = side / patch;
    let row_len = 3 * patch * patch;
    let batch = pixels.len() / (3 * side * side);
    let visible_per_image = visible.len() / batch;
    let images = patches
        .par_chunks_mut((1 + visible_per_image) * row_len)
        .zip(visible.par_chunks(visible_per_image));

    images.enumerate().for_each(|(sample, (patches, visible))| {
        let (class, patches) = patches.split_at_mut(row_len);
        class.fill(0.0);

        // A line of a patch is consecutive in the image as well as in the row: it is read at once.
        for (at, line) in patches.chunks_exact_mut(patch).enumerate() {
            let index = visible[at / (3 * patch)] as usize;
            let line_of_patch = at % (3 * patch);
            let channel = line_of_patch / patch;
            let top = index / grid * patch + line_of_patch % patch;
            let left = index % grid * patch;
            let start = ((sample * 3 + channel) * side + top) * side + left;

            pixels.read_normalized(start, channel, line);
        }
    });
}

pub(super) fn nchw_to_nhwc(pixels: PixelBatch<'_>, side: usize, out: &mut [f32]) {
    /// Pixels of one channel that are read at a time, into memory on the stack.
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

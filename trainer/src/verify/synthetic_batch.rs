//! Images of noise and texts of random tokens.

use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::random::{derive_key, uniform_f32};
use cnclip_crds::model::ModelConfig;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::ClipBatch;

/// Pairs of an image and a text, as both implementations take them.
pub(super) struct SyntheticBatch {
    pub(super) side: usize,
    pub(super) context: usize,
    /// `[batch, 3, side, side]`, as decoded.
    pub(super) pixels: Vec<u8>,
    ids: Vec<u32>,
    offsets: Vec<usize>,
}

impl SyntheticBatch {
    /// Texts have all lengths from 2 to `context`, spread over the batch.
    pub(super) fn new(config: &ModelConfig, batch: usize, context: usize, seed: u64) -> Self {
        let side = config.image.resolution as usize;
        let vocabulary = config.text.vocab_size as u32;
        // A bit of the key separates the streams: pixels and ids are drawn independently.
        let uniform = |stream: u64, i: usize| uniform_f32(derive_key(seed ^ stream, i as u64));
        let pixel_count = batch * 3 * side * side;
        let pixels = (0..pixel_count).map(|i| (256.0 * uniform(1 << 60, i)) as u8);

        // The first text is the longest, so that every position has a gradient.
        let length = |text: usize| context - text * (context - 2) / batch;
        let mut offsets = vec![0];
        for text in 0..batch {
            offsets.push(offsets[text] + length(text));
        }

        // 0 is padding; the last token of the vocabulary may not be reached by rounding up.
        let id =
            |i| (1 + (uniform(1 << 61, i) * (vocabulary - 1) as f32) as u32).min(vocabulary - 1);
        Self {
            side,
            context,
            pixels: pixels.collect(),
            ids: (0..offsets[batch]).map(id).collect(),
            offsets,
        }
    }

    pub(super) fn pair_count(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Where each text lies among all tokens.
    pub(super) fn text_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.offsets.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// For the trainer: texts without padding.
    pub(super) fn as_clip_batch(&self) -> ClipBatch<'_> {
        ClipBatch {
            pixels: PixelBatch::Bytes(&self.pixels),
            texts: PackedTexts {
                ids: &self.ids,
                offsets: &self.offsets,
            },
        }
    }

    /// For candle: texts padded by 0 to `[batch, context]`.
    pub(super) fn padded_ids(&self) -> Vec<u32> {
        let mut padded = vec![0; self.pair_count() * self.context];
        for (row, text) in padded.chunks_mut(self.context).zip(self.text_ranges()) {
            row[..text.len()].copy_from_slice(&self.ids[text]);
        }

        padded
    }
}

//! Classifier weights from prompts: the text embeddings of the class names.

use rayon::prelude::*;

use super::line_files::fill_template;
use super::prepared::PreparedZeroShot;
use crate::error::Result;
use crate::evaluate::{Encoder, EncoderInputSizes};
use cnclip_compute::collective::Collective;
use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use cnclip_data::tokenizer::{Tokenizer, normalize_dataset_text};
use cnclip_distributed::Communicator;
use cnclip_nn::model::PackedTexts;

/// Factor on similarities before the softmax: the reference uses 100 rather than the learned logit scale.
const LOGIT_SCALE: f32 = 100.0;
/// Images that one thread compares at a time.
const IMAGE_BLOCK_ROWS: usize = 64;

/// Computes an embedding for each class: the mean of the normalized embeddings of its prompts, normalized
/// again. Each rank encodes its share of the classes.
///
/// # Shapes
/// `[classes, width]`
///
/// # Errors
/// If a rank is lost.
pub(super) fn encode_class_names(
    ready: &PreparedZeroShot,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    sizes: EncoderInputSizes,
    world: &Communicator,
) -> Result<Vec<f32>> {
    let width = encoder.embedding_dim();
    let own = &ready.classes[world.rank_range(ready.classes.len())];
    let templates = &ready.templates.texts;
    let texts: Vec<String> = own
        .iter()
        // The prompts of a class are contiguous: `text / templates.len()` below is its index.
        .flat_map(|name| {
            templates
                .iter()
                .map(|template| normalize_dataset_text(&fill_template(template, name)))
        })
        .collect();

    // Summed in fp64, so that the result does not depend on how prompts are divided into batches.
    let mut sums = vec![0.0; own.len() * width];
    for (number, texts) in texts.chunks(sizes.batch_size).enumerate() {
        let (ids, offsets) = tokenizer.encode_batch(texts, sizes.context_length);
        let features = encoder.encode_texts(PackedTexts {
            ids: &ids,
            offsets: &offsets,
        });

        let first = number * sizes.batch_size;
        for (text, feature) in (first..).zip(features.chunks_exact(width)) {
            let sum = &mut sums[text / templates.len() * width..][..width];
            sum.iter_mut()
                .zip(feature)
                .for_each(|(sum, &value)| *sum += f64::from(value));
        }
    }

    // Before the gather, so that invalid features do not reach other ranks. The sum replaces the
    // mean, because normalization removes the factor between them.
    encoder.check_device_errors()?;
    let own = sums.chunks(width).flat_map(normalize_l2);
    Ok(world.all_gather_concat(own.collect())?)
}

fn normalize_l2(sum: &[f64]) -> impl Iterator<Item = f32> {
    let squares = sum.iter().map(|value| value * value);
    let length = squares.sum::<f64>().sqrt();
    sum.iter().map(move |value| (value / length) as f32)
}

/// Computes the probability of each class for each image.
///
/// # Shapes
/// `images` is `[images, width]`, `names` `[classes, width]`, the result `[images, classes]`.
pub(super) fn class_probabilities(images: &[f32], names: &[f32], width: usize) -> Vec<f32> {
    let names = MatrixView::new(names, width);
    let classes = names.rows();
    let mut found = vec![0.0; images.len() / width * classes];
    let blocks = images
        .par_chunks(IMAGE_BLOCK_ROWS * width)
        .zip(found.par_chunks_mut(IMAGE_BLOCK_ROWS * classes));

    blocks.for_each(|(images, found)| {
        let target = MatrixViewMut::new(found, classes);
        gemm_f32(
            target,
            Accumulate::No,
            LOGIT_SCALE,
            MatrixView::new(images, width),
            names.transposed(),
            // Rayon already divides the images among all threads.
            GemmThreads::One,
        );

        found.chunks_mut(classes).for_each(softmax);
    });

    found
}

fn softmax(row: &mut [f32]) {
    // The maximum is subtracted so that exp() cannot overflow.
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // fp64, so that rounding does not accumulate in the sum over thousands of classes.
    let powers: Vec<_> = row
        .iter()
        .map(|&value| f64::from(value - most).exp())
        .collect();

    let sum: f64 = powers.iter().sum();
    row.iter_mut()
        .zip(powers)
        .for_each(|(value, power)| *value = (power / sum) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_softmax_of_a_hundred_times_the_similarity() {
        let images = [0.6f32, 0.8, 1.0, 0.0];
        let names = [1.0f32, 0.0, 0.8, 0.6, 0.0, 1.0];
        let found = class_probabilities(&images, &names, 2);

        for (image, row) in images.chunks(2).zip(found.chunks(3)) {
            let scores: Vec<f64> = (names.chunks(2))
                .map(|name| f64::from(image[0] * name[0] + image[1] * name[1]))
                .collect();

            let all: f64 = scores.iter().map(|score| (100.0 * score).exp()).sum();
            for (found, score) in row.iter().zip(scores) {
                let right = (100.0 * score).exp() / all;
                assert!(
                    (f64::from(*found) - right).abs() < 1e-4 * right + 1e-30,
                    "{found} for {right}"
                );
            }
        }
    }
}

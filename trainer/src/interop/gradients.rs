//! Loss, features and gradients of one batch, for comparison with another implementation.

use std::path::Path;

use cnclip_crds::model::ModelConfig;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::atomic_file::{self, F32Tensor};
use super::reference_config;
use crate::error::{Error, Result};
use crate::host_memory::ensure_model_fits;
use crate::model_resolver;
use crate::weights::{ModelPart, load_weights};
use cnclip_compute::collective::SingleRank;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_data::store::Store;
use cnclip_nn::loss::ContrastiveLoss;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::{BatchCapacity, Clip, ClipBatch};

/// Images, and texts without trailing padding.
struct GradientBatch {
    pixels: Vec<f32>,
    ids: Vec<u32>,
    offsets: Vec<usize>,
    context: usize,
}

impl GradientBatch {
    fn count(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// Writes `loss` [], the unit features `image_features` and `text_features` `[batch, features]`, and
/// `grad/<name>` of every parameter, in training with dropout off.
///
/// `folder` holds `config.json` and `model.safetensors` as the reference names their content; the
/// batch's file `images` f32 `[batch, 3, side, side]` and `texts` i64 `[batch, tokens]`, where an id of 0
/// is padding wherever it stands.
///
/// # Errors
/// If model or batch cannot be read, do not fit each other, or the output cannot be written.
pub fn write_gradients(folder: &str, batch: &Path, to: &Path) -> Result<()> {
    let config = reference_config::read_model_config(&Store::open(folder)?)?;
    let found = model_resolver::resolve_weights(folder)?;
    let bytes = std::fs::read(batch).map_err(Error::io_context("read", batch))?;
    let pairs = parse_batch(&bytes, &config)
        .map_err(|error| Error::Data(format!("{}: {error}", batch.display())))?;

    let capacity = BatchCapacity {
        batch: pairs.count(),
        context: pairs.context,
    };

    ensure_model_fits(&config)?;
    let (mut clip, mut params) = Clip::new(&config, capacity);
    load_weights(&mut params, &found.tensors, ModelPart::All)
        .map_err(|error| Error::Data(format!("{}: {error}", found.uri)))?;

    let outcome = compute_gradients(&mut clip, &mut params, &pairs);
    let gradients = params.segments().iter().map(|segment| {
        let gradient = params.gradients.slice(segment.range.clone());
        let tensor = F32Tensor {
            shape: segment.shape.clone(),
            values: gradient.to_host(),
        };

        (format!("grad/{}", segment.name), tensor)
    });

    atomic_file::write_safetensors(to, outcome.into_iter().chain(gradients))
}

fn compute_gradients(
    clip: &mut Clip,
    params: &mut Params,
    pairs: &GradientBatch,
) -> [(String, F32Tensor<'static>); 3] {
    let count = pairs.count();
    let width = clip.feature_width();
    let texts = PackedTexts {
        ids: &pairs.ids,
        offsets: &pairs.offsets,
    };

    let batch = ClipBatch {
        pixels: PixelBatch::Normalized(&pairs.pixels),
        texts,
    };

    let mut loss = ContrastiveLoss::new(count, width);
    let scale = clip.logit_scale(params);
    let features = clip.forward(params, batch, Dropout::NONE);
    let score = loss.compute_loss(features, scale, &SingleRank);
    let outcome = [
        ("loss", vec![], vec![score.loss as f32]),
        (
            "image_features",
            vec![count, width],
            features.images.to_host().into_owned(),
        ),
        (
            "text_features",
            vec![count, width],
            features.texts.to_host().into_owned(),
        ),
    ];

    // Backward passes add to the gradients.
    params.clear_gradients();
    clip.add_logit_scale_gradient(params, score.logit_scale_gradient as f32);
    clip.backward(
        params,
        batch,
        Dropout::NONE,
        loss.feature_gradients(0..count),
        &mut (),
    );

    outcome.map(|(name, shape, values)| {
        (
            name.to_owned(),
            F32Tensor {
                shape,
                values: values.into(),
            },
        )
    })
}

fn parse_batch(bytes: &[u8], config: &ModelConfig) -> Result<GradientBatch, String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| format!("the batch is no safetensors ({error})"))?;
    let side = config.image.resolution as usize;
    let images = read_tensor(&file, "images", Dtype::F32)?;
    let texts = read_tensor(&file, "texts", Dtype::I64)?;
    let (&[batch, 3, height, width], &[rows, context]) = (images.shape(), texts.shape()) else {
        return Err(format!(
            "images are {:?} and texts {:?}, expected [batch, 3, {side}, {side}] and [batch, tokens]",
            images.shape(),
            texts.shape()
        ));
    };

    let positions = config.text.positions as usize;
    if (height, width) != (side, side) || batch != rows || batch == 0 {
        return Err(format!(
            "images are {:?} and texts {:?}, expected equally many of both, and images of {side} by {side}",
            images.shape(),
            texts.shape()
        ));
    }

    if !(1..=positions).contains(&context) {
        return Err(format!(
            "texts have {context} tokens, and the model 1 to {positions}"
        ));
    }

    let pixels: Vec<f32> = images
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect();

    // The loss couples all pairs: one NaN would make every gradient NaN and hide its origin.
    if let Some(place) = pixels.iter().position(|value| !value.is_finite()) {
        return Err(format!("number {place} of images is {}", pixels[place]));
    }

    let ids = texts
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&value| i64::from_le_bytes(value));

    unpad_texts(ids, context, config.text.vocab_size).map(|(ids, offsets)| GradientBatch {
        pixels,
        ids,
        offsets,
        context,
    })
}

fn read_tensor<'a>(
    file: &SafeTensors<'a>,
    name: &str,
    dtype: Dtype,
) -> Result<TensorView<'a>, String> {
    let tensor = file
        .tensor(name)
        .map_err(|_| format!("the batch has no tensor `{name}`"))?;

    match tensor.dtype() {
        found if found == dtype => Ok(tensor),
        found => Err(format!("`{name}` is of {found:?}, expected {dtype:?}")),
    }
}

/// Packs rows of ids without their trailing padding. A row of padding only keeps it, because its features are
/// those of its first token, which attends to all of them.
fn unpad_texts(
    ids: impl Iterator<Item = i64>,
    context: usize,
    vocab_size: i32,
) -> Result<(Vec<u32>, Vec<usize>), String> {
    let id = |(place, id): (usize, i64)| match u32::try_from(id) {
        Ok(small) if id < i64::from(vocab_size) => Ok(small),
        _ => Err(format!(
            "texts[{}, {}] is {id}, and the vocabulary has the ids 0 to {}",
            place / context,
            place % context,
            vocab_size - 1
        )),
    };

    let padded = ids
        .enumerate()
        .map(id)
        .collect::<Result<Vec<u32>, String>>()?;

    let mut ids = Vec::with_capacity(padded.len());
    let mut offsets = vec![0];
    for row in padded.chunks(context) {
        let length = row
            .iter()
            .rposition(|&id| id != 0)
            .map_or(context, |last| last + 1);

        ids.extend(&row[..length]);
        offsets.push(ids.len());
    }

    Ok((ids, offsets))
}

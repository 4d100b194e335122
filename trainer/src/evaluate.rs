//! Scores: what a model is worth on a data set. Loads no weights and writes nothing.

pub mod calibration;
mod files;
pub mod gallery;
mod job;
pub mod predictions;
pub mod retrieval;
pub mod search;
mod shares;
mod table;
mod unusable;
pub mod zero_shot;

use std::borrow::Cow;
use std::time::Instant;

use cnclip_crds::report::{Measured, Recalls, RetrievalScores, TaskResult, Threshold};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use cnclip_compute::ops::patchify::Pixels;
use cnclip_compute::params::Params;
use cnclip_data::shard::Dataset;
use cnclip_data::tokenize::Tokenizer;
use cnclip_distributed::World;
use cnclip_nn::model::Texts;
use cnclip_nn::model::clip::Clip;
use gallery::Gallery;
pub use job::{evaluate, evaluate_within};
use retrieval::Retrieval;
pub use table::table;

/// A model that is only asked for features.
pub trait Encoder {
    /// Numbers in a feature vector.
    fn width(&self) -> usize;
    /// The unit features of pictures.
    ///
    /// # Shapes
    /// `[batch, width]`
    fn encode_images(&mut self, pixels: Pixels<'_>) -> Cow<'_, [f32]>;
    /// The unit features of texts.
    ///
    /// # Shapes
    /// `[batch, width]`
    fn encode_texts(&mut self, texts: Texts<'_>) -> Cow<'_, [f32]>;
    /// Whether the features given so far are those that were asked for.
    ///
    /// # Errors
    /// If a device could not compute them.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Encoder for (&mut Clip, &mut Params) {
    fn width(&self) -> usize {
        self.0.features()
    }
    fn encode_images(&mut self, pixels: Pixels<'_>) -> Cow<'_, [f32]> {
        self.0.encode_images(self.1, pixels).read()
    }
    fn encode_texts(&mut self, texts: Texts<'_>) -> Cow<'_, [f32]> {
        self.0.encode_texts(self.1, texts).read()
    }
    fn check(&self) -> Result<()> {
        Ok(self.1.memory().check()?)
    }
}

/// What an encoder takes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width and height of a picture, in pixels.
    pub side: usize,
    /// Longest text, in tokens.
    pub context_length: usize,
    /// Most pictures, and most texts, at once.
    pub batch: usize,
}

/// A retrieval, scored, with what it was scored on.
#[derive(Debug)]
pub struct Scored {
    /// The numbers.
    pub result: TaskResult,
    /// The data set as the model sees it.
    pub gallery: Gallery,
    /// What was found for each query.
    pub retrieval: Retrieval,
}

impl Scored {
    /// Finds how similar a first answer must be to be right so often, in percent.
    pub fn calibrate(&mut self, precision: f64) {
        if let Measured::Retrieval(scores) = &mut self.result.measured {
            scores.threshold = calibration::threshold(&self.retrieval.text_to_image, precision);
        }
    }

    /// How similar a first answer must be, where that is known and reaches what was wanted.
    pub fn threshold(&self) -> Option<Threshold> {
        let Measured::Retrieval(scores) = &self.result.measured else {
            return None;
        };
        scores.threshold.filter(Threshold::is_reached)
    }
}

/// What an evaluation leaves behind as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Where the weights came from.
    pub checkpoint: String,
    /// sha256 of the checkpoint's manifest.
    pub digest: String,
    /// The version that scored.
    pub version: String,
    /// One for each task, in the order of the configuration.
    pub tasks: Vec<TaskResult>,
}

/// Scores one retrieval: each rank encodes its share of the data set, rank 0 searches it in both
/// directions and gets the numbers.
///
/// # Errors
/// If the data set cannot be read or is not that of all ranks, if a larger share than `most_skipped` of
/// it cannot be used, as [`Gallery::check`], or if a rank is lost.
pub fn score(
    name: &str,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    limits: (Sizes, f64),
    world: &World,
) -> Result<Option<Scored>> {
    let start = Instant::now();
    world.agree("data set", (name, &dataset.index().dataset))?;
    let gallery = Gallery::encode(dataset, tokenizer, encoder, limits, world)?;

    if !world.is_first() {
        return Ok(None);
    }

    gallery.check(dataset)?;
    let retrieval = gallery.retrieval();
    tell(name, &gallery, &retrieval);
    let texts = gallery.texts.len() as i64;
    let scores = RetrievalScores {
        texts,
        recalls: retrieval.recalls(),
        threshold: None,
    };

    let result = TaskResult {
        name: name.into(),
        dataset: dataset.uri().into(),
        digest: dataset.index().dataset.clone(),
        images: gallery.images.len() as i64,
        seconds: start.elapsed().as_secs_f64(),
        measured: Measured::Retrieval(scores),
    };

    Ok(Some(Scored {
        result,
        gallery,
        retrieval,
    }))
}

/// Says what of a data set counts for nothing.
fn tell(task: &str, gallery: &Gallery, retrieval: &Retrieval) {
    if gallery.has_names() {
        tracing::warn!(
            task,
            "some ids are names: the reference's scripts take whole numbers only"
        );
    }

    let Retrieval {
        text_to_image,
        image_to_text,
    } = retrieval;

    if text_to_image.recall.is_none() {
        tracing::info!(
            task,
            "no labels: texts are searched for, and no recall is known"
        );
    } else if text_to_image.unanswerable + image_to_text.unanswerable > 0 {
        let texts = text_to_image.unanswerable;
        let images = image_to_text.unanswerable;
        tracing::info!(
            task,
            texts,
            images,
            "nothing belongs to some, which count for nothing"
        );
    }
}

/// Recall over a data set, as a validation in training needs it: each rank encodes its share, rank 0
/// gets the numbers.
///
/// # Errors
/// As [`score`], if nothing is said to belong together, or if a rank is lost.
pub fn recalls(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    (sizes, most_skipped): (Sizes, f64),
    world: &World,
) -> Result<Option<Recalls>> {
    let gallery = Gallery::encode(dataset, tokenizer, encoder, (sizes, most_skipped), world)?;
    if gallery.relevant.iter().all(Vec::is_empty) {
        return Err(Error::Data(format!(
            "{} says of no text which image it describes, so nothing can be validated on it. Name a \
             data set with labels in validation.",
            dataset.uri()
        )));
    }

    Ok(world
        .is_first()
        .then(|| gallery.retrieval().recalls())
        .flatten())
}

#[cfg(test)]
pub(crate) mod tests;

//! Scores: what a model is worth on a data set. Loads no weights and writes nothing.

pub mod calibration;
pub mod corpus;
pub mod predictions;
mod results_table;
pub mod retrieval;
pub mod search;
mod sharding;
mod skip_budget;
pub mod zero_shot;

use std::borrow::Cow;
use std::time::Instant;

use cnclip_crds::tasks::{
    RetrievalRecalls, RetrievalScores, SimilarityThreshold, TaskResult, TaskScores,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_compute::params::Params;
use cnclip_data::shard::Dataset;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use cnclip_nn::model::PackedTexts;
use cnclip_nn::model::clip::Clip;
use corpus::RetrievalCorpus;
pub use results_table::format_results_table;
use retrieval::RetrievalResult;

/// A model that is only asked for features.
pub trait Encoder {
    /// Numbers in a feature vector.
    fn embedding_dim(&self) -> usize;
    /// The unit features of pictures.
    ///
    /// # Shapes
    /// `[batch, width]`
    fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]>;
    /// The unit features of texts.
    ///
    /// # Shapes
    /// `[batch, width]`
    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]>;
    /// Whether the features given so far are those that were asked for.
    ///
    /// # Errors
    /// If a device could not compute them.
    fn check_device_errors(&self) -> Result<()> {
        Ok(())
    }
}

impl Encoder for (&mut Clip, &mut Params) {
    fn embedding_dim(&self) -> usize {
        self.0.feature_width()
    }
    fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]> {
        self.0.encode_images(self.1, pixels).to_host()
    }
    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]> {
        self.0.encode_texts(self.1, texts).to_host()
    }
    fn check_device_errors(&self) -> Result<()> {
        Ok(self.1.memory().synchronize()?)
    }
}

/// What an encoder takes.
#[derive(Clone, Copy, Debug)]
pub struct EncoderInputSizes {
    /// Width and height of a picture, in pixels.
    pub image_size: usize,
    /// Longest text, in tokens.
    pub context_length: usize,
    /// Most pictures, and most texts, at once.
    pub batch_size: usize,
}

/// A retrieval, scored, with what it was scored on.
#[derive(Debug)]
pub struct ScoredRetrieval {
    /// The numbers.
    pub result: TaskResult,
    /// The data set as the model sees it.
    pub corpus: RetrievalCorpus,
    /// What was found for each query.
    pub retrieval: RetrievalResult,
}

impl ScoredRetrieval {
    /// Finds how similar a first answer must be to be right so often, in percent.
    pub fn calibrate_threshold(&mut self, precision: f64) {
        if let TaskScores::Retrieval(scores) = &mut self.result.measured {
            scores.threshold = calibration::fit_threshold(&self.retrieval.text_to_image, precision);
        }
    }

    /// How similar a first answer must be, where that is known and reaches what was wanted.
    pub fn reached_threshold(&self) -> Option<SimilarityThreshold> {
        let TaskScores::Retrieval(scores) = &self.result.measured else {
            return None;
        };
        scores.threshold.filter(SimilarityThreshold::is_reached)
    }
}

/// What an evaluation leaves behind as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationResults {
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
pub fn score_retrieval(
    name: &str,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    limits: (EncoderInputSizes, f64),
    world: &Communicator,
) -> Result<Option<ScoredRetrieval>> {
    let start = Instant::now();
    world.ensure_equal_across_ranks("data set", (name, &dataset.index().dataset))?;
    let gallery = RetrievalCorpus::encode_dataset(dataset, tokenizer, encoder, limits, world)?;

    if !world.is_rank_zero() {
        return Ok(None);
    }

    gallery.check_searchable(dataset)?;
    let retrieval = gallery.search_both_directions();
    log_label_coverage(name, &gallery, &retrieval);
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
        measured: TaskScores::Retrieval(scores),
    };

    Ok(Some(ScoredRetrieval {
        result,
        corpus: gallery,
        retrieval,
    }))
}

/// Says what of a data set counts for nothing.
fn log_label_coverage(task: &str, gallery: &RetrievalCorpus, retrieval: &RetrievalResult) {
    if gallery.has_string_ids() {
        tracing::warn!(
            task,
            "some ids are names: the reference's scripts take whole numbers only"
        );
    }

    let RetrievalResult {
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
pub fn evaluate_recalls(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    (sizes, most_skipped): (EncoderInputSizes, f64),
    world: &Communicator,
) -> Result<Option<RetrievalRecalls>> {
    let gallery =
        RetrievalCorpus::encode_dataset(dataset, tokenizer, encoder, (sizes, most_skipped), world)?;
    if gallery.relevant.iter().all(Vec::is_empty) {
        return Err(Error::Data(format!(
            "{} says of no text which image it describes, so nothing can be validated on it. Name a \
             data set with labels in validation.",
            dataset.uri()
        )));
    }

    Ok(world
        .is_rank_zero()
        .then(|| gallery.search_both_directions().recalls())
        .flatten())
}

#[cfg(test)]
pub(crate) mod tests;

//! Evaluation tasks: retrieval and zero-shot classification. Loads no weights and writes no files.

pub mod calibration;
pub mod corpus;
pub mod predictions;
mod presentation;
mod results_table;
pub mod retrieval;
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
pub use presentation::ScorePresentation;
pub use results_table::format_results_table;
use retrieval::RetrievalResult;

/// How the scores of a task are shown.
pub fn present_scores(scores: &TaskScores) -> &dyn ScorePresentation {
    match scores {
        TaskScores::Retrieval(scores) => scores,
        TaskScores::ZeroShot(scores) => scores,
    }
}

/// A model used for its features only.
pub trait Encoder {
    /// Dimension of the embeddings.
    fn embedding_dim(&self) -> usize;
    /// The L2-normalized embeddings of images.
    ///
    /// # Shapes
    /// `[batch, width]`
    fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]>;
    /// The L2-normalized embeddings of texts.
    ///
    /// # Shapes
    /// `[batch, width]`
    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]>;
    /// Whether all features returned so far are valid.
    ///
    /// # Errors
    /// If a device could not compute them.
    fn check_device_errors(&self) -> Result<()> {
        Ok(())
    }
    /// Whether to go on. Asked between batches and while images are waited for.
    ///
    /// # Errors
    /// If not.
    fn check_interrupted(&self) -> Result<()> {
        Ok(())
    }
}

impl Encoder for ClipEncoder<'_> {
    fn embedding_dim(&self) -> usize {
        self.clip.feature_width()
    }

    fn encode_images(&mut self, pixels: PixelBatch<'_>) -> Cow<'_, [f32]> {
        self.clip.encode_images(self.params, pixels).to_host()
    }

    fn encode_texts(&mut self, texts: PackedTexts<'_>) -> Cow<'_, [f32]> {
        self.clip.encode_texts(self.params, texts).to_host()
    }

    fn check_device_errors(&self) -> Result<()> {
        // Kernels run asynchronously: only a synchronization shows whether all of them succeeded.
        Ok(self.params.memory().synchronize()?)
    }

    fn check_interrupted(&self) -> Result<()> {
        self.check.map_or(Ok(()), |check| check())
    }
}

/// What an encoder takes.
#[derive(Clone, Copy, Debug)]
pub struct EncoderInputSizes {
    /// Width and height of an image, in pixels.
    pub image_size: usize,
    /// Longest text, in tokens.
    pub context_length: usize,
    /// Images, or texts, in a batch.
    pub batch_size: usize,
}

/// How a data set is encoded.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// What the encoder takes.
    pub input_sizes: EncoderInputSizes,
    /// Largest share of the data set that may be unusable, from 0 to 1.
    pub max_skipped_ratio: f64,
}

/// A CLIP model on its device, used for features only.
pub struct ClipEncoder<'a> {
    /// The towers.
    pub clip: &'a mut Clip,
    /// Their weights.
    pub params: &'a mut Params,
    /// Whether to go on, where that may change.
    pub check: Option<&'a dyn Fn() -> Result<()>>,
}

/// A retrieval, scored, with what it was scored on.
#[derive(Debug)]
pub struct ScoredRetrieval {
    /// The scores.
    pub result: TaskResult,
    /// The encoded data set.
    pub corpus: RetrievalCorpus,
    /// The nearest candidates of each query.
    pub retrieval: RetrievalResult,
}

impl ScoredRetrieval {
    /// Fits the similarity threshold for a precision of the nearest images, in percent.
    pub fn calibrate_threshold(&mut self, precision: f64) {
        if let TaskScores::Retrieval(scores) = &mut self.result.measured {
            scores.threshold = calibration::fit_threshold(&self.retrieval.text_to_image, precision);
        }
    }

    /// The similarity threshold, where one was fitted and reaches the requested precision.
    pub fn reached_threshold(&self) -> Option<SimilarityThreshold> {
        let TaskScores::Retrieval(scores) = &self.result.measured else {
            return None;
        };
        scores.threshold.filter(SimilarityThreshold::is_reached)
    }
}

/// The content of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationResults {
    /// Where the weights came from.
    pub checkpoint: String,
    /// sha256 of the checkpoint's manifest.
    pub digest: String,
    /// Version of cnclip.
    pub version: String,
    /// One result for each task, in the order of the configuration.
    pub tasks: Vec<TaskResult>,
}

/// Scores one retrieval. Each rank encodes its share of the data set; rank 0 searches it in both directions
/// and returns the scores, the others `None`.
///
/// # Errors
/// If the data set cannot be read, differs between ranks, or has more unusable samples than
/// `max_skipped_ratio`, as [`RetrievalCorpus::check_searchable`], or if a rank is lost.
pub fn score_retrieval(
    name: &str,
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    options: EncodeOptions,
    world: &Communicator,
) -> Result<Option<ScoredRetrieval>> {
    let start = Instant::now();
    // Each worker opened the data set itself: an index rewritten in between would give ranks shares
    // that overlap or leave gaps.
    world.ensure_equal_across_ranks("data set", (name, &dataset.index().dataset))?;
    let corpus = RetrievalCorpus::encode_dataset(dataset, tokenizer, encoder, options, world)?;

    if !world.is_rank_zero() {
        return Ok(None);
    }

    // A non-finite feature would rank last in the search and yield a plausible but low recall.
    corpus.check_searchable(dataset)?;
    let retrieval = corpus.search_both_directions();
    log_label_coverage(name, &corpus, &retrieval);
    let scores = RetrievalScores {
        texts: corpus.texts.len() as i64,
        recalls: retrieval.recalls(),
        // Fitted later by `calibrate_threshold`, only where the task requests a calibration.
        threshold: None,
    };

    let result = TaskResult {
        name: name.into(),
        dataset: dataset.uri().into(),
        digest: dataset.index().dataset.clone(),
        images: corpus.images.len() as i64,
        seconds: start.elapsed().as_secs_f64(),
        measured: TaskScores::Retrieval(scores),
    };

    Ok(Some(ScoredRetrieval {
        result,
        corpus,
        retrieval,
    }))
}

/// Logs which part of a data set has no labels and is left out of the recalls.
fn log_label_coverage(task: &str, corpus: &RetrievalCorpus, retrieval: &RetrievalResult) {
    if corpus.has_string_ids() {
        tracing::warn!(
            task,
            "some ids are strings: the reference's scripts accept integers only"
        );
    }

    let RetrievalResult {
        text_to_image,
        image_to_text,
    } = retrieval;

    if text_to_image.recall.is_none() {
        tracing::info!(
            task,
            "the data set has no labels: predictions are written, recall is not computed"
        );
    } else if text_to_image.unanswerable + image_to_text.unanswerable > 0 {
        let texts = text_to_image.unanswerable;
        let images = image_to_text.unanswerable;
        tracing::info!(
            task,
            texts,
            images,
            "some queries have no relevant candidate and are left out of recall"
        );
    }
}

/// Recall on a data set, for the validation during training. Each rank encodes its share; rank 0 returns the
/// recalls, the others `None`.
///
/// # Errors
/// As [`score_retrieval`], and if the data set has no labels.
pub fn evaluate_recalls(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    options: EncodeOptions,
    world: &Communicator,
) -> Result<Option<RetrievalRecalls>> {
    let corpus = RetrievalCorpus::encode_dataset(dataset, tokenizer, encoder, options, world)?;
    // On every rank, not only on rank 0: all have the same corpus, so all fail together and none is
    // left waiting in a collective.
    if corpus.relevant.iter().all(Vec::is_empty) {
        return Err(Error::Data(format!(
            "{} has no labels (no text says which image it describes), so recall cannot be validated on \
             it. Use a data set with labels in validation.",
            dataset.uri()
        )));
    }

    Ok(world
        .is_rank_zero()
        .then(|| corpus.search_both_directions().recalls())
        .flatten())
}

#[cfg(test)]
pub(crate) mod tests;

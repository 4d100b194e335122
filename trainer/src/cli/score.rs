//! `cnclip score`: computes retrieval recall from feature files.

use std::path::PathBuf;

use clap::Args;
use cnclip::error::{Error, Result};
use cnclip::interop::{atomic_file, score};
use cnclip_crds::tasks::{RecallAtK, RetrievalRecalls};
use serde_json::{Value, json};

/// Compares features by inner product without normalizing them: normalize them before. Recalls are in percent,
/// over the texts and images that have a relevant candidate. Ties are ranked in the order of the file.
#[derive(Args, Debug)]
pub(super) struct ScoreArgs {
    /// Image features: {"image_id": 1, "feature": [0.1, …]} per line, as the reference's extract_features writes.
    #[arg(long, value_name = "FILE")]
    images: PathBuf,
    /// Text features: {"text_id": 1, "feature": [0.1, …]} per line.
    #[arg(long, value_name = "FILE")]
    texts: PathBuf,
    /// Relevance labels: per line a text with its images, {"text_id": 1, "image_ids": [2, 3]}, or an image with
    /// its texts, {"image_id": 2, "text_ids": [1]}.
    #[arg(long, value_name = "FILE", required_unless_present = "predictions")]
    relevance: Option<PathBuf>,
    /// Output folder of the predictions, in the format of the reference's make_topk_predictions:
    /// text_to_image.jsonl and image_to_text.jsonl, and with --relevance its score files.
    #[arg(long, value_name = "FOLDER")]
    predictions: Option<PathBuf>,
}

impl ScoreArgs {
    pub(super) fn run(&self) -> Result<()> {
        let searched =
            score::score_feature_files(&self.images, &self.texts, self.relevance.as_deref())?;
        self.predictions
            .as_deref()
            .map_or(Ok(()), |folder| searched.write_predictions(folder))?;

        let Some(RetrievalRecalls {
            text_to_image,
            image_to_text,
        }) = searched.retrieval.recalls()
        else {
            return Ok(());
        };

        let scores = json!({
            "text_to_image": recall_json(text_to_image),
            "image_to_text": recall_json(image_to_text),
        });

        atomic_file::write_json_line(&mut std::io::stdout().lock(), &scores)
            .map_err(Error::io_context("write", "standard output"))
    }
}

fn recall_json(
    RecallAtK {
        r1,
        r5,
        r10,
        mean_recall,
    }: RecallAtK,
) -> Value {
    json!({"r1": r1, "r5": r5, "r10": r10, "mean_recall": mean_recall})
}

//! Predictions and their scores in the file formats of the reference's evaluation. Computes nothing.

use std::io::{self, Write};

use cnclip_crds::tasks::RecallAtK;
use serde::Serialize;
use serde_json::{Value, json};

use super::retrieval::DirectionResult;

/// The images found for each text.
pub const TEXT_TO_IMAGE_FILE: &str = "text_to_image.jsonl";
/// The texts found for each image.
pub const IMAGE_TO_TEXT_FILE: &str = "image_to_text.jsonl";
/// The image that answers each text, or that none does.
pub const ANSWERS_FILE: &str = "answers.jsonl";
/// How good the images found for texts are.
pub const TEXT_TO_IMAGE_SCORE_FILE: &str = "text_to_image_score.json";
/// How good the texts found for images are.
pub const IMAGE_TO_TEXT_SCORE_FILE: &str = "image_to_text_score.json";

/// The ids of the texts and images of a retrieval, in the order of the corpus.
#[derive(Debug)]
pub struct CorpusIds<'a, I> {
    /// Ids of the texts.
    pub texts: &'a [I],
    /// Ids of the images.
    pub images: &'a [I],
}

#[derive(Serialize)]
struct TextPrediction<'a, I> {
    text_id: &'a I,
    image_ids: Vec<&'a I>,
}

#[derive(Serialize)]
struct ImagePrediction<'a, I> {
    image_id: &'a I,
    text_ids: Vec<&'a I>,
}

/// Writes `{"text_id": 1, "image_ids": [2, 3, …]}` a line, in the order of the texts, the best image
/// first.
///
/// # Errors
/// Those of the writer.
pub fn write_text_to_image<I: Serialize>(
    ids: &CorpusIds<'_, I>,
    found: &DirectionResult,
    writer: &mut impl Write,
) -> io::Result<()> {
    ids.texts
        .iter()
        .zip(&found.nearest)
        .try_for_each(|(text_id, nearest)| {
            let image_ids = nearest.iter().map(|near| &ids.images[near.index]).collect();
            write_json_line(writer, &TextPrediction { text_id, image_ids })
        })
}

/// Writes `{"image_id": 1, "text_ids": [2, 3, …]}` a line, in the order of the images, the best text
/// first.
///
/// # Errors
/// Those of the writer.
pub fn write_image_to_text<I: Serialize>(
    ids: &CorpusIds<'_, I>,
    found: &DirectionResult,
    writer: &mut impl Write,
) -> io::Result<()> {
    ids.images
        .iter()
        .zip(&found.nearest)
        .try_for_each(|(image_id, nearest)| {
            let text_ids = nearest.iter().map(|near| &ids.texts[near.index]).collect();
            write_json_line(writer, &ImagePrediction { image_id, text_ids })
        })
}

#[derive(Serialize)]
struct MatchAnswer<'a, I> {
    text_id: &'a I,
    image_id: Option<&'a I>,
    similarity: Option<f32>,
}

/// Writes `{"text_id": 1, "image_id": 2, "similarity": 0.4}` a line, in the order of the texts: the best
/// image, or `null` where that is less similar than `least` and there is no match.
///
/// # Errors
/// Those of the writer.
pub fn write_answers<I: Serialize>(
    ids: &CorpusIds<'_, I>,
    found: &DirectionResult,
    least: f32,
    writer: &mut impl Write,
) -> io::Result<()> {
    ids.texts
        .iter()
        .zip(&found.nearest)
        .try_for_each(|(text_id, nearest)| {
            let first = nearest.first();
            // Inclusive, as in the calibration: the threshold is the similarity of an accepted
            // answer.
            let image = first.filter(|first| first.similarity >= least);
            let image_id = image.map(|image| &ids.images[image.index]);
            // Written for rejected answers too, so that another threshold can be applied to the
            // file.
            let similarity = first.map(|first| first.similarity);

            write_json_line(
                writer,
                &MatchAnswer {
                    text_id,
                    image_id,
                    similarity,
                },
            )
        })
}

/// The score file that the reference's `evaluation.py` writes for one direction.
///
/// # Units
/// Percent
pub fn score_json(recall: RecallAtK) -> Value {
    let RecallAtK {
        r1,
        r5,
        r10,
        mean_recall,
    } = recall;

    // MUGE's leaderboard reads this layout: `score` is its ranking, the mean recall, which stands twice.
    let numbers = json!({
        "score": mean_recall, "mean_recall": mean_recall, "r1": r1, "r5": r5, "r10": r10
    });

    json!({"success": true, "score": mean_recall, "scoreJson": numbers})
}

fn write_json_line(writer: &mut impl Write, row: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, row)?;
    writer.write_all(b"\n")
}

//! Zero-shot classification: an image is assigned the class whose prompts are nearest to it.
//!
//! ```text
//! <data set>/label_cn.txt            the name of each class, one a line
//! <data set>/test/<class>/<image>
//! <data set>/test_labels.jsonl       images of several classes; optional
//! <data set>/index.json              the order of a submission; optional
//! ```

mod class_embeddings;
mod class_folders;
mod dataset_errors;
mod image_features;
mod index_files;
mod line_files;
pub mod metrics;
mod prepared;
mod presentation;
mod submission;

use std::time::Instant;

use cnclip_crds::tasks::TemplateSet;
use cnclip_crds::tasks::{TaskResult, TaskScores, ZeroShotScores};

use super::{EncodeOptions, Encoder};
use crate::error::{Error, Result};
pub use class_folders::ClassImage;
use cnclip_data::tokenizer::Tokenizer;
use cnclip_distributed::Communicator;
use metrics::{ClassPredictions, average_precision, mean_of_known, per_class_accuracy, roc_auc};
pub use prepared::{PreparedZeroShot, PromptTemplates};
pub use submission::{CLASSES_FILE, SUBMISSION_FILE, SubmissionModel};

/// A zero-shot classification, scored.
#[derive(Clone, Debug)]
pub struct ScoredZeroShot {
    /// The numbers.
    pub result: TaskResult,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Confusion matrix: images by their own class (row) and their predicted class (column).
    ///
    /// # Shapes
    /// `[classes, classes]`
    pub confusion: Vec<Vec<u64>>,
    /// Every usable image, in the order of the classes and of the file names.
    pub images: Vec<ClassifiedImage>,
}

/// One image, and its predicted classes.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifiedImage {
    /// Where it is, under the data set's prefix.
    pub file: String,
    /// The class it belongs to.
    pub class: usize,
    /// All classes it belongs to.
    pub labels: Vec<usize>,
    /// Probability of each class.
    pub probabilities: Vec<f32>,
}

/// Scores one classification: each rank encodes its share.
///
/// # Errors
/// If the store fails, more than `max_skipped_ratio` of the images is unusable, the model gives features that
/// are not finite, or a rank is lost.
///
/// # Guarantees
/// All ranks get the same, whatever their number.
pub fn score_zero_shot(
    ready: &PreparedZeroShot,
    tokenizer: &Tokenizer,
    encoder: &mut impl Encoder,
    options: EncodeOptions,
    world: &Communicator,
) -> Result<ScoredZeroShot> {
    let start = Instant::now();
    // Each worker listed the images itself: an upload in between would shift the shares of ranks.
    world.ensure_equal_across_ranks("list of images", &ready.digest)?;
    let width = encoder.embedding_dim();
    let sizes = options.input_sizes;
    // Both steps gather from all ranks, so every rank must run them in this order.
    let names = class_embeddings::encode_class_names(ready, tokenizer, encoder, sizes, world)?;
    let encoded = image_features::encode_dataset_images(ready, encoder, options, world)?;

    // NaN compares false with everything: every image would be predicted as class 0.
    check_finite(ready, &names, "names")?;
    check_finite(ready, &encoded.features, "images")?;
    let probabilities = class_embeddings::class_probabilities(&encoded.features, &names, width);
    let right: Vec<_> = encoded
        .used
        .iter()
        .map(|&place| ready.files[place].class)
        .collect();

    let classes = ready.classes.len();
    let guesses = ClassPredictions {
        probabilities: &probabilities,
        classes,
        labels: &right,
    };

    let confusion = guesses.confusion_matrix();
    let measured = TaskScores::ZeroShot(compute_scores(ready, guesses, &confusion, &encoded.used));
    let result = TaskResult {
        name: ready.name.clone(),
        dataset: ready.store.uri().to_owned(),
        digest: ready.digest.clone(),
        images: encoded.used.len() as i64,
        seconds: start.elapsed().as_secs_f64(),
        measured,
    };

    let images = encoded.used.iter().zip(probabilities.chunks(classes));
    let images = images.map(|(&place, row)| ClassifiedImage {
        file: ready.files[place].path(),
        class: ready.files[place].class,
        labels: ready.labels[place].clone(),
        probabilities: row.to_vec(),
    });

    Ok(ScoredZeroShot {
        result,
        classes: ready.classes.clone(),
        confusion,
        images: images.collect(),
    })
}

/// The numbers, in percent.
fn compute_scores(
    ready: &PreparedZeroShot,
    guesses: ClassPredictions<'_>,
    confusion: &[Vec<u64>],
    used: &[usize],
) -> ZeroShotScores {
    // Average precision ranks all images by one class, so it counts every label of an image, where accuracy
    // counts its own class only.
    let precision = |class| {
        let probabilities = guesses.class_probabilities(class);
        let labels = used.iter().map(|&place| &ready.labels[place]);
        let right: Vec<_> = labels.map(|labels| labels.contains(&class)).collect();
        average_precision(&probabilities, &right)
    };

    let precisions: Vec<_> = (0..guesses.classes).map(precision).collect();

    ZeroShotScores {
        classes: guesses.classes as i64,
        headline: ready.primary_metric,
        accuracy: 100.0 * guesses.top_k_accuracy(1),
        top5: 100.0 * guesses.top_k_accuracy(5),
        mean_per_class: 100.0 * mean_of_known(&per_class_accuracy(confusion)),
        roc_auc: binary_roc_auc(guesses).map(|area| 100.0 * area),
        mean_average_precision: 100.0 * mean_of_known(&precisions),
        templates: ready.templates.to_report(),
    }
}

/// The area under the curve of a binary classifier; `None` for more classes.
fn binary_roc_auc(guesses: ClassPredictions<'_>) -> Option<f64> {
    if guesses.classes != 2 {
        return None;
    }

    // Class 1 is the positive one, as in ELEVATER's hateful-memes.
    let probabilities = guesses.class_probabilities(1);
    let positive: Vec<_> = guesses.labels.iter().map(|&class| class == 1).collect();
    roc_auc(&probabilities, &positive)
}

/// The templates that cnclip ships, one per line.
fn builtin_templates(set: TemplateSet) -> &'static str {
    // Compiled in: templates belong to the version, and scores of one version stay comparable.
    macro_rules! file {
        ($name:literal) => {
            include_str!(concat!("zero_shot/templates/", $name, ".txt"))
        };
    }

    match set {
        TemplateSet::General => file!("general"),
        TemplateSet::Flower => file!("flower"),
        TemplateSet::Food => file!("food"),
        TemplateSet::Aircraft => file!("aircraft"),
        TemplateSet::Satellite => file!("satellite"),
        TemplateSet::Country => file!("country"),
        TemplateSet::Meme => file!("meme"),
        TemplateSet::Distance => file!("distance"),
        TemplateSet::Car => file!("car"),
        TemplateSet::Texture => file!("texture"),
        TemplateSet::Tissue => file!("tissue"),
        TemplateSet::Pet => file!("pet"),
        TemplateSet::Small => file!("small"),
        TemplateSet::Object => file!("object"),
        TemplateSet::Face => file!("face"),
        TemplateSet::Name => file!("name"),
    }
}

fn check_finite(ready: &PreparedZeroShot, features: &[f32], of: &str) -> Result<()> {
    if features.iter().all(|value| value.is_finite()) {
        return Ok(());
    }

    Err(Error::Data(format!(
        "task {}: the features of some {of} are not finite. The checkpoint is unusable: its training \
         diverged, or its files are damaged. Evaluate another one.",
        ready.name
    )))
}

#[cfg(test)]
mod tests;

//! Classification by names: how often the class whose texts are nearest to a picture is its own.

use cnclip_crds::report::TaskResult;
use cnclip_crds::run_config::ZeroShotConfig;

use super::{Encoder, Sizes};
use crate::data::tokenize::Tokenizer;
use crate::error::{Error, Result};

/// A zero-shot classification, scored.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The numbers.
    pub result: TaskResult,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// For each class, how often its pictures were taken for each.
    ///
    /// # Shapes
    /// `[classes, classes]`
    pub confusion: Vec<Vec<u64>>,
    /// Every picture that could be used, in the order of the classes and of their files' names.
    pub pictures: Vec<Picture>,
}

/// One picture, and what it was taken for.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Where it is, under the data set's prefix.
    pub file: String,
    /// The class it belongs to.
    pub class: usize,
    /// Probability of each class.
    pub probabilities: Vec<f32>,
}

/// Scores one classification.
///
/// # Errors
/// If the data set cannot be used.
pub fn score(
    name: &str,
    _config: &ZeroShotConfig,
    _tokenizer: &Tokenizer,
    _encoder: &mut impl Encoder,
    (_sizes, _most_skipped): (Sizes, f64),
) -> Result<Scored> {
    Err(Error::Config(format!("task {name}: this version scores retrieval only.")))
}

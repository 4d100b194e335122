//! The public data sets of retrieval that the paper tells numbers of. Knows none of the numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A public data set of retrieval that numbers were published on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::schema::leave_words_to_fields)]
pub enum Benchmark {
    /// MUGE, its validation part: queries of a shop, from text to image only.
    MugeValid,
    /// Flickr30K-CN, its test part.
    Flickr30kCnTest,
    /// COCO-CN, its test part.
    CocoCnTest,
}

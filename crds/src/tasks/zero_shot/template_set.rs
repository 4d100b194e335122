//! The sets of sentences that the project ships.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set of this project's sentences into which the name of a class is put. The default is that of the
/// preset, or else `General`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::schema::leave_words_to_fields)]
pub enum TemplateSet {
    /// For whatever can be in a picture.
    General,
    /// For flowers.
    Flower,
    /// For dishes.
    Food,
    /// For aircraft.
    Aircraft,
    /// For the earth from above.
    Satellite,
    /// For the country where a picture was taken.
    Country,
    /// For pictures with words that may hurt.
    Meme,
    /// For how far away a car is.
    Distance,
    /// For makes and models of cars.
    Car,
    /// For surfaces and patterns.
    Texture,
    /// For sections under a microscope.
    Tissue,
    /// For breeds of cats and dogs.
    Pet,
    /// For pictures of a few pixels.
    Small,
    /// For objects, drawn or photographed.
    Object,
    /// For expressions of faces.
    Face,
    /// The name alone.
    Name,
}

impl TemplateSet {
    /// Every set.
    pub const ALL: [Self; 16] = [
        Self::General,
        Self::Flower,
        Self::Food,
        Self::Aircraft,
        Self::Satellite,
        Self::Country,
        Self::Meme,
        Self::Distance,
        Self::Car,
        Self::Texture,
        Self::Tissue,
        Self::Pet,
        Self::Small,
        Self::Object,
        Self::Face,
        Self::Name,
    ];
}

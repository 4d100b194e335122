//! The sets of sentences that the project ships, and how many there are in each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set of this project's sentences into which the name of a class is put. The default is that of the
/// preset, or else `General`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum TemplateSet {
    /// For whatever can be in a picture: 183.
    General,
    /// For flowers: 32.
    Flower,
    /// For dishes: 21.
    Food,
    /// For aircraft: 100.
    Aircraft,
    /// For the earth from above: 24.
    Satellite,
    /// For the country where a picture was taken: 4.
    Country,
    /// For pictures with words that may hurt: 2.
    Meme,
    /// For how far away a car is: 3.
    Distance,
    /// For makes and models of cars: 7.
    Car,
    /// For surfaces and patterns: 6.
    Texture,
    /// For sections under a microscope: 3.
    Tissue,
    /// For breeds of cats and dogs: 6.
    Pet,
    /// For pictures of a few pixels: 11.
    Small,
    /// For objects, drawn or photographed: 16.
    Object,
    /// For expressions of faces: 5.
    Face,
    /// The name alone: 1.
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

    /// How many sentences it has.
    ///
    /// # Source
    /// As many as the reference's set for the same purpose, whose evaluation chooses among the first six.
    pub fn size(self) -> usize {
        match self {
            Self::General => 183,
            Self::Flower => 32,
            Self::Food => 21,
            Self::Aircraft => 100,
            Self::Satellite => 24,
            Self::Country => 4,
            Self::Meme => 2,
            Self::Distance => 3,
            Self::Car => 7,
            Self::Texture => 6,
            Self::Tissue => 3,
            Self::Pet => 6,
            Self::Small => 11,
            Self::Object => 16,
            Self::Face => 5,
            Self::Name => 1,
        }
    }
}

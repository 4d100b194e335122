//! The built-in prompt template sets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Built-in set of prompt templates for class names.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::schema::leave_words_to_fields)]
pub enum TemplateSet {
    /// General-purpose templates.
    General,
    /// For flowers.
    Flower,
    /// For food.
    Food,
    /// For aircraft.
    Aircraft,
    /// For satellite images.
    Satellite,
    /// For the country where an image was taken.
    Country,
    /// For memes, hateful or not.
    Meme,
    /// For the distance of a car.
    Distance,
    /// For car models.
    Car,
    /// For textures.
    Texture,
    /// For tissue under a microscope.
    Tissue,
    /// For pets.
    Pet,
    /// For low-resolution images.
    Small,
    /// For objects, drawn or photographed.
    Object,
    /// For facial expressions.
    Face,
    /// The class name alone.
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

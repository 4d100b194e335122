//! Validates a corpus before it is searched.

use std::collections::HashMap;

use super::RetrievalCorpus;
use crate::error::{Error, Result};
use cnclip_data::shard::{Dataset, ItemId};

impl RetrievalCorpus {
    /// Validates that it can be searched and its predictions written.
    ///
    /// # Errors
    /// If it is empty, two images or two different texts have the same id, or features are not finite.
    pub fn check_searchable(&self, dataset: &Dataset) -> Result<()> {
        let problem = self
            .empty_problem()
            .or_else(|| self.duplicate_id_problem())
            .or_else(|| self.non_finite_problem());

        problem.map_or(Ok(()), |why| {
            Err(Error::Data(format!("{}: {why}", dataset.uri())))
        })
    }

    /// Whether an id is a string, where the reference accepts integers only.
    pub fn has_string_ids(&self) -> bool {
        let is_string = |id: &ItemId| matches!(id, ItemId::Name(_));
        let mut images = self.images.iter();
        let mut texts = self.texts.iter();

        images.any(|image| is_string(&image.image_id)) || texts.any(|text| is_string(&text.text_id))
    }

    fn empty_problem(&self) -> Option<String> {
        let what = match (self.images.is_empty(), self.texts.is_empty()) {
            (true, _) => "image",
            (false, true) => "text",
            (false, false) => return None,
        };

        Some(format!(
            "it holds no {what} that can be used, so there is nothing to retrieve. Use a data set \
             with images and texts."
        ))
    }

    fn duplicate_id_problem(&self) -> Option<String> {
        // Predictions name images by id alone: the reference's scripts could not tell two apart.
        let mut seen = HashMap::new();
        for image in &self.images {
            if let Some(first) = seen.insert(&image.image_id, image) {
                return Some(format!(
                    "image {} occurs twice: as samples {} of shard {} and {} of shard {}. Give \
                     each image one sample with all its texts.",
                    image.image_id, first.sample, first.shard, image.sample, image.shard
                ));
            }
        }

        let mut seen = HashMap::new();
        let text = self.texts.iter().find(|text| {
            seen.insert(&text.text_id, *text)
                .is_some_and(|first| first.text != text.text)
        })?;

        Some(format!(
            "text {} has two wordings. Give each text its own text_id.",
            text.text_id
        ))
    }

    fn non_finite_problem(&self) -> Option<String> {
        let image = self.non_finite_row(&self.image_features);
        let text = self.non_finite_row(&self.text_features);

        let what = if let Some(index) = image {
            format!("image {}", self.images[index].image_id)
        } else {
            format!("text {}", self.texts[text?].text_id)
        };

        Some(format!(
            "the model's feature of {what} has numbers that are not finite: its weights are damaged, or \
             its training diverged. Score another checkpoint."
        ))
    }

    /// The first row that has a number which is not finite.
    fn non_finite_row(&self, features: &[f32]) -> Option<usize> {
        let mut rows = features.chunks(self.width.max(1));
        rows.position(|row| row.iter().any(|number| !number.is_finite()))
    }
}

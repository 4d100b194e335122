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
        let images = self.images.iter().map(|image| &image.image_id);
        let mut ids = images.chain(self.texts.iter().map(|text| &text.text_id));
        ids.any(|id| matches!(id, ItemId::Name(_)))
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
        let unfit = |features: &[f32]| {
            let rows = features.chunks(self.width.max(1));
            rows.map(|row| row.iter().all(|number| number.is_finite()))
                .position(|fine| !fine)
        };

        let image = unfit(&self.image_features).map(|at| ("image", &self.images[at].image_id));
        let text = || unfit(&self.text_features).map(|at| ("text", &self.texts[at].text_id));
        let (what, id) = image.or_else(text)?;
        Some(format!(
            "the model's feature of {what} {id} has numbers that are not finite: its weights are \
             damaged, or its training diverged. Score another checkpoint."
        ))
    }
}

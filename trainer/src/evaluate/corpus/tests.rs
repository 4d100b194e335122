use super::*;
use crate::evaluate::tests::{golden, scored, unlabeled};
use cnclip_data::store::Store;

/// What is said of the golden gallery after a change.
fn said(change: impl FnOnce(&mut RetrievalCorpus)) -> Option<(String, i32)> {
    let dataset = golden(&Store::in_memory());
    let mut gallery = scored(&dataset).corpus;
    change(&mut gallery);
    let error = gallery.check_searchable(&dataset).err()?;
    let told = error.to_string();

    assert!(told.starts_with(&format!("{}: ", dataset.uri())), "{told}");
    Some((told, error.exit_code().exit_code().into()))
}

#[test]
fn a_gallery_that_cannot_be_told_of_says_why() {
    assert_eq!(said(|_| ()), None);
    let first = |gallery: &RetrievalCorpus| gallery.images[0].image_id.clone();
    type Change = Box<dyn FnOnce(&mut RetrievalCorpus)>;
    let rows: [(Change, &str); 6] = [
        (
            Box::new(|g| g.images.clear()),
            "it holds no image that can be used",
        ),
        (
            Box::new(|g| g.texts.clear()),
            "it holds no text that can be used",
        ),
        (
            Box::new(move |g| g.images[4].image_id = first(g)),
            "image 1 occurs twice: as samples 0 of shard 0 and",
        ),
        (
            Box::new(|g| g.texts[2].text_id = g.texts[0].text_id.clone()),
            "has two wordings. Give each text its own text_id",
        ),
        (
            Box::new(|g| g.image_features[5] = f32::NAN),
            "the model's feature of image 3 has numbers that are not finite",
        ),
        (
            Box::new(|g| g.text_features[0] = f32::INFINITY),
            "has numbers that are not finite: its weights are damaged",
        ),
    ];

    for (change, expected) in rows {
        let (told, code) = said(change).unwrap();
        assert!(told.contains(expected), "{told}");
        assert_eq!(code, 65);
    }
}

#[test]
fn a_text_of_several_images_is_one_text_and_names_are_noticed() {
    let mut gallery = scored(&golden(&Store::in_memory())).corpus;
    assert!(!gallery.has_string_ids());
    gallery.texts[3].text_id = ItemId::parse("a").unwrap();
    assert!(gallery.has_string_ids());
    let dataset = unlabeled(&Store::in_memory());

    assert!(scored(&dataset).corpus.check_searchable(&dataset).is_ok());
}

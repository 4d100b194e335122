use super::*;
use crate::evaluate::tests::{golden, scored, unlabelled};
use cnclip_data::store::Store;

/// What is said of the golden gallery after a change.
fn said(change: impl FnOnce(&mut Gallery)) -> Option<(String, i32)> {
    let dataset = golden(&Store::memory());
    let mut gallery = scored(&dataset).gallery;
    change(&mut gallery);
    let error = gallery.check(&dataset).err()?;
    let told = error.to_string();

    assert!(told.starts_with(&format!("{}: ", dataset.uri())), "{told}");
    Some((told, error.exit().code().into()))
}

#[test]
fn a_gallery_that_cannot_be_told_of_says_why() {
    assert_eq!(said(|_| ()), None);
    let first = |gallery: &Gallery| gallery.images[0].image_id.clone();
    type Change = Box<dyn FnOnce(&mut Gallery)>;
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
            "image 1 is there twice: as samples 0 of shard 0 and",
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
    let mut gallery = scored(&golden(&Store::memory())).gallery;
    assert!(!gallery.has_names());
    gallery.texts[3].text_id = Id::read("a").unwrap();
    assert!(gallery.has_names());
    let dataset = unlabelled(&Store::memory());

    assert!(scored(&dataset).gallery.check(&dataset).is_ok());
}

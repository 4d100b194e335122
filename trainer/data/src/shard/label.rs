//! The label of a sample, `key.json` or `key.txt`: its texts and the ids of image and texts. Never judges a text.

use serde::Deserialize;

use super::ItemId;

/// A text and, where the data set gives texts ids, its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelText {
    /// The id of the text in its data set.
    pub text_id: Option<ItemId>,
    /// The text.
    pub text: String,
}

/// What a data set says of an image besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleLabel {
    /// The id of the image in its data set.
    pub image_id: Option<ItemId>,
    /// Its texts.
    pub texts: Vec<LabelText>,
}

#[derive(Deserialize)]
struct LabelFields {
    image_id: Option<ItemId>,
    text_id: Option<ItemId>,
    #[serde(alias = "caption")]
    text: Option<String>,
    texts: Option<Vec<LabelTextJson>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LabelTextJson {
    Plain(String),
    Numbered {
        text_id: Option<ItemId>,
        text: String,
    },
}

impl SampleLabel {
    /// The label in the two files of a sample: `texts` of the JSON, else its `text` (or
    /// `caption`, as img2dataset writes), else the text file.
    ///
    /// # Errors
    /// If a file is not UTF-8 or not the JSON expected; the message names neither sample nor shard.
    pub fn parse_label(json: Option<&[u8]>, txt: Option<&[u8]>) -> Result<Self, String> {
        let json = match json {
            Some(bytes) => Some(
                serde_json::from_slice::<LabelFields>(bytes).map_err(|error| error.to_string())?,
            ),
            None => None,
        };

        // Labels of this project give a list `texts`; img2dataset and most WebDataset tools give one `text` or
        // `caption`, or a text file beside the image. The richest one counts.
        let plain = |text: String, text_id| vec![LabelText { text_id, text }];
        let image_id = json.as_ref().and_then(|json| json.image_id.clone());
        let texts = match (json, txt) {
            (
                Some(LabelFields {
                    texts: Some(texts), ..
                }),
                _,
            ) => texts.into_iter().map(into_label_text).collect(),
            (
                Some(LabelFields {
                    text: Some(text),
                    text_id,
                    ..
                }),
                _,
            ) => plain(text, text_id),
            (_, Some(txt)) => {
                let text = std::str::from_utf8(txt).map_err(|error| error.to_string())?;
                // An editor ends a file with a line break that is no part of the text.
                plain(text.trim_end_matches(['\r', '\n']).to_owned(), None)
            }
            _ => Vec::new(),
        };

        Ok(Self { image_id, texts })
    }
}

fn into_label_text(text: LabelTextJson) -> LabelText {
    match text {
        LabelTextJson::Plain(text) => LabelText {
            text_id: None,
            text,
        },
        LabelTextJson::Numbered { text_id, text } => LabelText { text_id, text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_where_the_formats_store_them() {
        type Row = (
            Option<&'static str>,
            Option<&'static str>,
            Option<u64>,
            Texts,
        );

        type Texts = &'static [(Option<u64>, &'static str)];
        let table: [Row; 7] = [
            (None, Some("猫\n"), None, &[(None, "猫")]),
            (
                Some(r#"{"text": "猫", "image_id": 3}"#),
                None,
                Some(3),
                &[(None, "猫")],
            ),
            (
                Some(r#"{"text": "猫", "text_id": 9}"#),
                Some("x"),
                None,
                &[(Some(9), "猫")],
            ),
            (
                Some(r#"{"caption": "猫", "url": "u"}"#),
                None,
                None,
                &[(None, "猫")],
            ),
            (Some(r#"{"url": "u"}"#), Some("猫"), None, &[(None, "猫")]),
            (
                Some(r#"{"texts": ["猫", "狗"]}"#),
                None,
                None,
                &[(None, "猫"), (None, "狗")],
            ),
            (
                Some(r#"{"image_id": 1, "texts": [{"text_id": 5, "text": "猫"}]}"#),
                None,
                Some(1),
                &[(Some(5), "猫")],
            ),
        ];

        for (json, txt, image_id, texts) in table {
            let label =
                SampleLabel::parse_label(json.map(str::as_bytes), txt.map(str::as_bytes)).unwrap();
            let found = label
                .texts
                .iter()
                .map(|t| (t.text_id.clone(), t.text.as_str()));

            let right = texts.iter().map(|&(id, text)| (id.map(ItemId::from), text));
            assert!(found.eq(right), "{json:?} {txt:?}");
            assert_eq!(label.image_id, image_id.map(ItemId::from), "{json:?}");
        }
    }

    #[test]
    fn an_image_and_its_texts_may_have_names() {
        let json = r#"{"image_id": "猫.jpg", "texts": [{"text_id": "a-1", "text": "猫"}]}"#;
        let label = SampleLabel::parse_label(Some(json.as_bytes()), None).unwrap();
        assert_eq!(label.image_id, ItemId::parse("猫.jpg"));
        assert_eq!(label.texts[0].text_id, ItemId::parse("a-1"));
    }

    #[test]
    fn a_label_that_cannot_be_read_is_an_error() {
        assert!(SampleLabel::parse_label(Some(b"{\"text\": 3}"), None).is_err());
        assert!(SampleLabel::parse_label(None, Some(b"\xff\xfe")).is_err());
    }
}

//! The label of a sample, `key.json` or `key.txt`: its texts and the ids of image and texts. Never judges a text.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ItemId;
use crate::json::{parse_json, strip_byte_order_mark};

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

/// Fields of a JSON label that hold texts, the richest first: those of this project, of img2dataset and its kin, and of
/// LAION's tables.
const TEXT_FIELDS: [&str; 5] = ["texts", "captions", "text", "caption", "TEXT"];

/// A text in a JSON label.
#[derive(Deserialize)]
#[serde(untagged)]
enum LabelTextJson {
    Plain(LooseText),
    Numbered {
        text_id: Option<ItemId>,
        text: LooseText,
    },
}

/// A text, which tables write as a number where it looks like one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum LooseText {
    /// As it is.
    Text(String),
    /// Such as a year: the digits are the text.
    Number(serde_json::Number),
}

impl From<LooseText> for String {
    fn from(text: LooseText) -> Self {
        match text {
            LooseText::Text(text) => text,
            LooseText::Number(number) => number.to_string(),
        }
    }
}

impl SampleLabel {
    /// The label in the two files of a sample: the texts of the JSON, else the text file.
    ///
    /// # Errors
    /// If neither file can be read as one; the message names neither sample nor shard.
    pub fn parse_label(json: Option<&[u8]>, txt: Option<&[u8]>) -> Result<Self, String> {
        let from_json = json.map(Self::parse_json_label).transpose();
        match (from_json, txt) {
            (Ok(Some(label)), _) if label.has_text() => Ok(label),
            // The text file has what a JSON lacks, or says in another way.
            (from_json, Some(txt)) => {
                let image_id = from_json.ok().flatten().and_then(|label| label.image_id);
                let texts = vec![parse_text_file(txt)?];
                Ok(Self { image_id, texts })
            }
            (from_json, None) => Ok(from_json?.unwrap_or_default()),
        }
    }

    fn parse_json_label(bytes: &[u8]) -> Result<Self, String> {
        let fields: BTreeMap<String, Value> =
            parse_json(bytes).map_err(|error| error.to_string())?;

        let image_id = parse_field(&fields, "image_id")?;
        let text_id: Option<ItemId> = parse_field(&fields, "text_id")?;
        let is_present = |name: &&str| fields.get(*name).is_some_and(|value| !value.is_null());
        let texts = match TEXT_FIELDS.into_iter().find(is_present) {
            Some(name) if fields[name].is_array() => {
                let texts: Option<Vec<LabelTextJson>> = parse_field(&fields, name)?;
                texts
                    .unwrap_or_default()
                    .into_iter()
                    .map(into_label_text)
                    .collect()
            }
            Some(name) => {
                let text: Option<LooseText> = parse_field(&fields, name)?;
                let text = text.map(String::from).unwrap_or_default();
                vec![LabelText { text_id, text }]
            }
            None => Vec::new(),
        };

        Ok(Self { image_id, texts })
    }

    fn has_text(&self) -> bool {
        self.texts.iter().any(|text| !text.text.trim().is_empty())
    }
}

fn parse_field<T: DeserializeOwned>(
    fields: &BTreeMap<String, Value>,
    name: &str,
) -> Result<Option<T>, String> {
    let Some(value) = fields.get(name) else {
        return Ok(None);
    };

    T::deserialize(value)
        .map(Some)
        .or_else(|error| match value.is_null() {
            true => Ok(None),
            false => Err(format!("`{name}` is {value}: {error}")),
        })
}

fn parse_text_file(bytes: &[u8]) -> Result<LabelText, String> {
    let text = std::str::from_utf8(strip_byte_order_mark(bytes)).map_err(|error| {
        format!(
            "its caption is not UTF-8 ({error}); convert it, for example with `iconv -f GB18030`"
        )
    })?;

    Ok(LabelText {
        text_id: None,
        // An editor ends a file with a line break that is no part of the text.
        text: text.trim_end_matches(['\r', '\n']).to_owned(),
    })
}

fn into_label_text(text: LabelTextJson) -> LabelText {
    match text {
        LabelTextJson::Plain(text) => LabelText {
            text_id: None,
            text: text.into(),
        },
        LabelTextJson::Numbered { text_id, text } => LabelText {
            text_id,
            text: text.into(),
        },
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
        let table: [Row; 13] = [
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
                Some(r#"{"caption": "猫", "text": "狗", "similarity": NaN}"#),
                None,
                None,
                &[(None, "狗")],
            ),
            (
                Some(r#"{"caption": null}"#),
                Some("\u{FEFF}猫"),
                None,
                &[(None, "猫")],
            ),
            (Some("{"), Some("猫"), None, &[(None, "猫")]),
            (Some(r#"{"caption": 2021}"#), None, None, &[(None, "2021")]),
            (
                Some(r#"{"caption": 3.5, "image_id": 4}"#),
                Some("猫"),
                Some(4),
                &[(None, "3.5")],
            ),
            (
                Some(r#"{"TEXT": "猫", "alt": "x"}"#),
                None,
                None,
                &[(None, "猫")],
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
        assert!(SampleLabel::parse_label(Some(b"{\"text\": {}}"), None).is_err());
        assert!(SampleLabel::parse_label(Some(b"{"), None).is_err());
        assert!(SampleLabel::parse_label(None, Some(b"\xff\xfe")).is_err());
    }
}

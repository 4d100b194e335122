//! The reference's text file `<split>_texts.jsonl`: `text_id`, `text` and `image_ids` in a JSON object a line.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{TextReader, TextRecord};
use crate::error::Result;
use crate::jsonl::JsonLines;
use crate::shard::ItemId;

const EXPECTED_LINE: &str = "{\"text_id\": 1, \"text\": \"…\", \"image_ids\": [2, 3]}";

/// The texts of a file of JSON lines, read in their order.
pub struct JsonlTexts {
    path: PathBuf,
    lines: JsonLines<BufReader<File>>,
}

// Other fields are ignored: the files of some data sets have more.
#[derive(Deserialize)]
struct TextLine {
    text_id: ItemId,
    text: String,
    image_ids: Vec<ItemId>,
}

impl JsonlTexts {
    /// Opens a file; its lines are read later.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            lines: JsonLines::open(path, EXPECTED_LINE)?,
        })
    }
}

impl TextReader for JsonlTexts {
    fn source(&self) -> String {
        self.path.display().to_string()
    }

    fn record_unit(&self) -> &'static str {
        "line"
    }

    fn for_each_text(&mut self, each: &mut dyn FnMut(TextRecord) -> Result<()>) -> Result<()> {
        self.lines.for_each(|position, line: TextLine| {
            let TextLine {
                text_id,
                text,
                image_ids,
            } = line;

            each(TextRecord {
                number: position.number,
                text_id,
                text,
                image_ids,
            })
        })
    }
}

//! Texts in, ids out, a line for a line. Pads nothing.

use std::io::{BufRead, Write};
use std::path::Path;

use serde::Deserialize;

use super::output;
use crate::error::{Error, Result};
use crate::source;
use cnclip_data::jsonl::Lines;
use cnclip_data::tokenize::{Tokenizer, Vocabulary, dataset_rules};

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// How texts become ids.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Most ids of a text, `[CLS]` and `[SEP]` included.
    pub context_length: usize,
    /// Whether a text is first changed as the reference's data sets change theirs.
    pub dataset: bool,
}

/// The tokenizer of a vocabulary file, or else of the published models.
///
/// # Errors
/// If the file cannot be read, or is no vocabulary.
pub fn tokenizer(vocabulary: Option<&Path>) -> Result<Tokenizer> {
    let Some(path) = vocabulary else {
        return source::tokenizer(None, i32::MAX);
    };

    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    of_vocabulary(&bytes, &path.display().to_string(), i32::MAX)
}

/// The tokenizer of a vocabulary's bytes, for a model that knows so many ids.
///
/// # Errors
/// If the bytes are no vocabulary, or one of more entries.
pub(super) fn of_vocabulary(bytes: &[u8], uri: &str, vocab_size: i32) -> Result<Tokenizer> {
    let unfit = |why: String| Error::Config(format!("The vocabulary {uri} cannot be used: {why}"));
    let vocabulary = Vocabulary::from_bytes(bytes).map_err(|error| unfit(error.to_string()))?;
    match vocabulary.size() {
        size if size <= vocab_size.max(0) as usize => Ok(Tokenizer::new(vocabulary)),
        size => Err(unfit(format!(
            "it has {size} entries, and the model knows {vocab_size}"
        ))),
    }
}

/// Answers every JSON object with a `text` by a JSON array of its ids, before it reads the next.
///
/// # Errors
/// A line that is no such object; if `output` cannot be written.
pub fn tokenize(
    tokenizer: &Tokenizer,
    rules: Rules,
    input: impl BufRead,
    output: &mut impl Write,
) -> Result<()> {
    let lines = Lines::new(input, "standard input", "{\"text\": \"…\"}");
    lines.each(|_, Line { text }| {
        let text = if rules.dataset {
            dataset_rules(&text)
        } else {
            text
        };

        let ids = tokenizer.encode(&text, rules.context_length);
        output::line(output, &ids).map_err(Error::file("write", "standard output"))
    })
}

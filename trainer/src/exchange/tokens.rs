//! Texts in, ids out, a line for a line. Pads nothing.

use std::io::{BufRead, Write};
use std::path::Path;

use serde::Deserialize;

use super::lines::Lines;
use super::output;
use crate::data::tokenize::{Tokenizer, Vocabulary, dataset_rules};
use crate::error::{Error, Result};
use crate::source;

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
    let Some(path) = vocabulary else { return source::tokenizer(None, i32::MAX) };
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let vocabulary = Vocabulary::from_bytes(&bytes);
    let vocabulary = vocabulary
        .map_err(|error| Error::Config(format!("{} cannot be used: {error}", path.display())))?;
    Ok(Tokenizer::new(vocabulary))
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
        let text = if rules.dataset { dataset_rules(&text) } else { text };
        let ids = tokenizer.encode(&text, rules.context_length);
        output::line(output, &ids).map_err(Error::file("write", "standard output"))
    })
}

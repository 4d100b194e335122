//! Tokenizes JSON Lines, without padding.

use std::io::{BufRead, Write};
use std::path::Path;

use serde::Deserialize;

use super::atomic_file;
use crate::error::{Error, Result};
use crate::model_resolver;
use cnclip_data::jsonl::JsonLines;
use cnclip_data::tokenizer::{Tokenizer, Vocabulary, normalize_dataset_text};

#[derive(Deserialize)]
struct TextLine {
    text: String,
}

/// Options of tokenization.
#[derive(Clone, Copy, Debug)]
pub struct TokenizeOptions {
    /// Maximum number of ids of a text, including `[CLS]` and `[SEP]`.
    pub context_length: usize,
    /// Whether texts are normalized first as the reference's data sets are.
    pub dataset_rules: bool,
}

/// Loads the tokenizer of a vocabulary file, or else of the published models.
///
/// # Errors
/// If the file cannot be read, or is no vocabulary.
pub fn load_tokenizer(vocabulary: Option<&Path>) -> Result<Tokenizer> {
    let Some(path) = vocabulary else {
        // No model is involved that could have too few embeddings.
        return model_resolver::load_tokenizer(None, i32::MAX);
    };

    let bytes = std::fs::read(path).map_err(Error::io_context("read", path))?;
    tokenizer_from_bytes(&bytes, &path.display().to_string(), i32::MAX)
}

/// Builds the tokenizer of a vocabulary, for a model of `vocab_size` token embeddings.
///
/// # Errors
/// If the bytes are no vocabulary, or one of more entries.
pub(super) fn tokenizer_from_bytes(bytes: &[u8], uri: &str, vocab_size: i32) -> Result<Tokenizer> {
    let unfit = |why: String| Error::Config(format!("The vocabulary {uri} cannot be used: {why}"));
    let vocabulary = Vocabulary::from_bytes(bytes).map_err(|error| unfit(error.to_string()))?;
    // Fewer entries than embeddings are allowed: every id still has one.
    match vocabulary.vocab_size() {
        size if size <= vocab_size.max(0) as usize => Ok(Tokenizer::new(vocabulary)),
        size => Err(unfit(format!(
            "it has {size} entries, and the model {vocab_size} token embeddings"
        ))),
    }
}

/// Writes for each JSON object with a `text` a JSON array of its ids, before reading the next line.
///
/// # Errors
/// A line that is no such object; if `output` cannot be written.
pub fn tokenize_lines(
    tokenizer: &Tokenizer,
    rules: TokenizeOptions,
    input: impl BufRead,
    output: &mut impl Write,
) -> Result<()> {
    let mut lines = JsonLines::new(input, "standard input", "{\"text\": \"…\"}");
    lines.for_each(|_, TextLine { text }| {
        let text = if rules.dataset_rules {
            normalize_dataset_text(&text)
        } else {
            text
        };

        let ids = tokenizer.encode(&text, rules.context_length);
        atomic_file::write_json_line(output, &ids)
            .map_err(Error::io_context("write", "standard output"))
    })
}

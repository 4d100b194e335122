//! Turns a text into the ids of the reference's uncased WordPiece, special tokens included.
//!
//! It never pads: the padding depends on the batch. It keeps no token that is written in the text whole either:
//! `[CLS]` in a text is punctuation and letters.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// SHA-256 of the vocabulary that the published models were trained with.
pub const VOCABULARY_SHA256: &str =
    "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c";

/// Longer words are `[UNK]` without a look at their pieces: the limit of BERT's `WordpieceTokenizer`, against
/// quadratic time.
const MAX_WORD_CHARS: usize = 200;

/// Why a file cannot be a vocabulary.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VocabularyError {
    /// The bytes are not text.
    #[error(
        "the vocabulary is not UTF-8 from byte {0} on; give the vocab.txt of Chinese BERT, one token a line"
    )]
    NotUtf8(usize),
    /// A token that every text needs is not there.
    #[error(
        "the vocabulary has {lines} lines and none is {token}; give the vocab.txt of Chinese BERT, one token a line"
    )]
    MissingToken {
        /// Lines found.
        lines: usize,
        /// The token looked for.
        token: &'static str,
    },
    /// The file is another one than the run expects.
    #[error(
        "the vocabulary has SHA-256 {found}, expected {expected}; fetch vocab.txt again, or correct the expected digest"
    )]
    DigestMismatch {
        /// Digest in the configuration of the run.
        expected: String,
        /// Digest of the bytes.
        found: String,
    },
}

/// The tokens and their ids: whole words apart from the pieces that continue one.
#[derive(Debug)]
pub struct Vocabulary {
    word_ids: HashMap<Box<str>, u32>,
    continuation_ids: HashMap<Box<str>, u32>,
    /// Bytes of the longest token: where the search for a match begins.
    max_token_bytes: usize,
    unk_id: u32,
    cls_id: u32,
    sep_id: u32,
}

impl Vocabulary {
    /// Reads a `vocab.txt`: the id of a token is its line, counted from 0.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, and a file without `[UNK]`, `[CLS]` or `[SEP]`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VocabularyError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| VocabularyError::NotUtf8(error.valid_up_to()))?;

        // Blank lines count: the id is the number of the line, whatever is in it.
        let tokens = || text.lines().zip(0u32..);
        let heads: HashMap<Box<str>, u32> =
            tokens().map(|(token, id)| (token.into(), id)).collect();

        let id = |token| {
            let lines = heads.len();
            heads
                .get(token)
                .copied()
                .ok_or(VocabularyError::MissingToken { lines, token })
        };

        let unknown = id("[UNK]")?;
        let start = id("[CLS]")?;
        let end = id("[SEP]")?;
        let longest = heads.keys().map(|token| token.len()).max();
        let tails = tokens().filter_map(|(token, id)| {
            let tail = token.strip_prefix("##")?;
            Some((tail.into(), id))
        });

        Ok(Self {
            continuation_ids: tails.collect(),
            word_ids: heads,
            max_token_bytes: longest.unwrap_or(0),
            unk_id: unknown,
            cls_id: start,
            sep_id: end,
        })
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        let ids = self.word_ids.values().chain(self.continuation_ids.values());
        ids.max().map_or(0, |&largest| largest as usize + 1)
    }

    /// Compares the digest of a vocabulary file with the expected one.
    ///
    /// # Errors
    /// Another digest than `expected_hex`, in either case of letters.
    pub fn verify_sha256(bytes: &[u8], expected_hex: &str) -> Result<(), VocabularyError> {
        let found: String = Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();

        if found.eq_ignore_ascii_case(expected_hex) {
            return Ok(());
        }

        Err(VocabularyError::DigestMismatch {
            expected: expected_hex.into(),
            found,
        })
    }

    /// The longest token that `rest` begins with, and its bytes.
    fn longest_match(&self, rest: &str, first: bool) -> Option<(u32, usize)> {
        let tokens = if first {
            &self.word_ids
        } else {
            &self.continuation_ids
        };
        let end = rest.floor_char_boundary(self.max_token_bytes);
        let mut ends = rest[..end]
            .char_indices()
            .rev()
            .map(|(start, c)| start + c.len_utf8());

        ends.find_map(|end| Some((*tokens.get(&rest[..end])?, end)))
    }
}

/// The reference's tokenizer over one vocabulary.
///
/// ```
/// use cnclip_data::tokenizer::{Tokenizer, Vocabulary};
///
/// // The id of a token is its line: [UNK] 0, [CLS] 1, [SEP] 2, 猫 3, play 4, ##ing 5.
/// let vocabulary = Vocabulary::from_bytes("[UNK]\n[CLS]\n[SEP]\n猫\nplay\n##ing\n".as_bytes())?;
/// let tokenizer = Tokenizer::new(vocabulary);
///
/// assert_eq!(tokenizer.encode("猫 Playing!", 52), [1, 3, 4, 5, 0, 2]);
/// assert_eq!(tokenizer.encode("猫猫猫猫", 4), [1, 3, 3, 2], "cut to the context, with its end");
/// # Ok::<(), cnclip_data::tokenizer::VocabularyError>(())
/// ```
///
/// # Source
/// `cn_clip.clip.tokenize` and its `FullTokenizer`, cn_clip 1.6.0.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
}

impl Tokenizer {
    /// Tokenizes with this vocabulary.
    pub fn new(vocabulary: Vocabulary) -> Self {
        Self { vocabulary }
    }

    /// The ids of a text: `[CLS]`, at most `context_length - 2` pieces, `[SEP]`.
    ///
    /// # Guarantees
    /// Never longer than `context_length` (which counts as 2 when it is less), never padded, and a
    /// text cut short still ends in `[SEP]`.
    pub fn encode(&self, text: &str, context_length: usize) -> Vec<u32> {
        let max_before_sep = context_length.max(2) - 1;
        let mut ids = Vec::with_capacity((text.len() + 2).min(max_before_sep + 1));
        ids.push(self.vocabulary.cls_id);

        for token in separate_ideographs(text).split_whitespace() {
            for word in split_on_punctuation(&lowercase_strip_accents(token)) {
                self.push_pieces(word, &mut ids);
            }

            // The rest of a long text would be cut off anyway.
            if ids.len() >= max_before_sep {
                break;
            }
        }

        ids.truncate(max_before_sep);
        ids.push(self.vocabulary.sep_id);
        ids
    }

    /// The ids of texts one behind the other, and where each text begins and the last one ends.
    pub fn encode_batch(
        &self,
        texts: &[impl AsRef<str> + Sync],
        context_length: usize,
    ) -> (Vec<u32>, Vec<usize>) {
        let encode = |text| self.encode(AsRef::<str>::as_ref(text), context_length);
        let mut ids = Vec::new();
        let mut offsets = vec![0];

        for text in texts.par_iter().map(encode).collect::<Vec<_>>() {
            ids.extend(text);
            offsets.push(ids.len());
        }

        (ids, offsets)
    }

    /// Greedy, longest piece first; a word with any part unknown is one `[UNK]`.
    fn push_pieces(&self, word: &str, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut rest = if word.chars().nth(MAX_WORD_CHARS).is_none() {
            word
        } else {
            ""
        };

        // Only the first piece may be a whole word; the others are looked up as `##` continuations.
        while let Some((id, end)) = self.vocabulary.longest_match(rest, ids.len() == before) {
            ids.push(id);
            rest = &rest[end..];
        }

        if ids.len() == before || !rest.is_empty() {
            ids.truncate(before);
            ids.push(self.vocabulary.unk_id);
        }
    }
}

/// What the reference's data sets do to a text before they tokenize it: lower case, and the
/// curly double quotes, which the vocabulary lacks, straight. Its `clip.tokenize` does not, so neither does
/// [`Tokenizer::encode`].
pub fn normalize_dataset_text(text: &str) -> String {
    text.to_lowercase().replace(['\u{201C}', '\u{201D}'], "\"")
}

/// Drops invisible characters and sets every ideograph apart.
fn separate_ideographs(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len() * 2);
    for c in text.chars().filter(|&c| !is_invisible(c)) {
        if is_ideograph(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }

    spaced
}

/// Lower case without accents. A token of ideographs, or of ASCII in lower case, is that already.
fn lowercase_strip_accents(token: &str) -> Cow<'_, str> {
    if token
        .chars()
        .all(|c| matches!(c, '!'..='@' | '['..='~' | '\u{4E00}'..='\u{9FFF}'))
    {
        return Cow::Borrowed(token);
    }

    // Decomposed, so that an accent is a character of its own; lower case before that, as the reference.
    let is_accent = |c: &char| get_general_category(*c) == GeneralCategory::NonspacingMark;
    Cow::Owned(
        token
            .to_lowercase()
            .nfd()
            .filter(|c| !is_accent(c))
            .collect(),
    )
}

/// Cuts at punctuation, each mark a word of its own.
fn split_on_punctuation(token: &str) -> impl Iterator<Item = &str> {
    let mut rest = token;
    iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if is_punctuation(first) {
            first.len_utf8()
        } else {
            rest.find(is_punctuation).unwrap_or(rest.len())
        };

        let (word, tail) = rest.split_at(end);
        rest = tail;
        Some(word)
    })
}

fn is_invisible(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' | ' '..='~' => false,
        '\u{FFFD}' => true,
        _ => matches!(
            get_general_category(c),
            GeneralCategory::Control | GeneralCategory::Format
        ),
    }
}

/// The blocks of BERT's `_is_chinese_char`: newer ones (extensions F and on) are words like Latin ones there.
fn is_ideograph(c: char) -> bool {
    matches!(
        c,
        // CJK Unified Ideographs, and their Extensions A to E.
        '\u{4E00}'..='\u{9FFF}'
            | '\u{3400}'..='\u{4DBF}'
            | '\u{20000}'..='\u{2A6DF}'
            | '\u{2A700}'..='\u{2B73F}'
            | '\u{2B740}'..='\u{2B81F}'
            | '\u{2B820}'..='\u{2CEAF}'
            // CJK Compatibility Ideographs, and their Supplement.
            | '\u{F900}'..='\u{FAFF}'
            | '\u{2F800}'..='\u{2FA1F}'
    )
}

fn is_punctuation(c: char) -> bool {
    use GeneralCategory::*;
    // BERT counts every ASCII symbol as punctuation (`$`, `+`, `^`), although Unicode does not.
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }

    matches!(
        get_general_category(c),
        ConnectorPunctuation
            | DashPunctuation
            | OpenPunctuation
            | ClosePunctuation
            | InitialPunctuation
            | FinalPunctuation
            | OtherPunctuation
    )
}

#[cfg(test)]
mod tests;

//! The reference's rules, one after the other over whole texts: slow, and written apart from the
//! tokenizer that is held against them.

use std::collections::HashMap;

use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// Blocks whose characters are words of their own.
const IDEOGRAPHS: [(u32, u32); 8] = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
];

pub(super) struct Tokenizer(HashMap<String, u32>);

impl Tokenizer {
    pub(super) fn new(vocabulary: &str) -> Self {
        Self(vocabulary.lines().map(str::to_owned).zip(0..).collect())
    }

    /// Clean, set ideographs apart, split, lower and strip, split at punctuation, cut into pieces,
    /// cut to length, frame.
    pub(super) fn ids(&self, text: &str, length: usize) -> Vec<u32> {
        let apart: String = clean(text).chars().map(set_apart).collect();
        let stripped = apart
            .split_whitespace()
            .map(|token| strip(&token.to_lowercase()));

        let words: Vec<String> = stripped.flat_map(|token| at_punctuation(&token)).collect();
        let pieces = words.iter().flat_map(|word| self.pieces(word));
        let inner = pieces.take(length - 2).map(|piece| self.0[&piece]);
        [101].into_iter().chain(inner).chain([102]).collect()
    }

    fn pieces(&self, word: &str) -> Vec<String> {
        let unknown = vec!["[UNK]".to_owned()];
        let letters: Vec<char> = word.chars().collect();
        if letters.len() > 200 {
            return unknown;
        }

        let mut pieces = Vec::new();
        let mut start = 0;
        while start < letters.len() {
            let prefix = if start == 0 { "" } else { "##" };
            let piece = |end: usize| format!("{prefix}{}", String::from_iter(&letters[start..end]));
            let ends = (start + 1..=letters.len()).rev();
            let Some(end) = ends
                .into_iter()
                .find(|&end| self.0.contains_key(&piece(end)))
            else {
                return unknown;
            };

            pieces.push(piece(end));
            start = end;
        }

        pieces
    }
}

fn category(c: char) -> &'static str {
    get_general_category(c).abbreviation()
}

fn clean(text: &str) -> String {
    let kept = text.chars().filter(|&c| {
        let control = !"\t\n\r".contains(c) && ["Cc", "Cf"].contains(&category(c));
        c != '\0' && c != '\u{FFFD}' && !control
    });

    let space = |c: char| " \t\n\r".contains(c) || category(c) == "Zs";
    kept.map(|c| if space(c) { ' ' } else { c }).collect()
}

fn set_apart(c: char) -> String {
    let inside = |(first, last): &(u32, u32)| (*first..=*last).contains(&u32::from(c));
    if IDEOGRAPHS.iter().any(inside) {
        format!(" {c} ")
    } else {
        c.to_string()
    }
}

fn strip(token: &str) -> String {
    token
        .nfd()
        .filter(|&c| get_general_category(c) != GeneralCategory::NonspacingMark)
        .collect()
}

/// Every mark becomes a word of its own.
fn at_punctuation(token: &str) -> Vec<String> {
    let mark = |c: char| {
        let ascii = matches!(u32::from(c), 33..=47 | 58..=64 | 91..=96 | 123..=126);
        ascii || category(c).starts_with('P')
    };

    let spaced: String = token
        .chars()
        .map(|c| {
            if mark(c) {
                format!(" {c} ")
            } else {
                c.to_string()
            }
        })
        .collect();

    spaced.split_whitespace().map(str::to_owned).collect()
}

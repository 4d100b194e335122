//! Which program wrote a state dict, by its tensors' names, and which of them no model of ours has. Never looks
//! at shapes or values.

use std::collections::BTreeMap;
use std::fmt;

/// A way of naming tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateDictFormat {
    /// The reference's own, which is ours too.
    Reference,
    /// Hugging Face's `ChineseCLIPModel`.
    HuggingFace,
    /// A CLIP of another language, as OpenAI and open_clip name it.
    Clip,
    /// A CLIP of another language, as Hugging Face names it.
    HuggingFaceClip,
    /// A BERT.
    Bert,
    /// None of these.
    Unknown,
}

impl fmt::Display for StateDictFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "Chinese-CLIP (OFA-Sys)",
            Self::HuggingFace => "Hugging Face ChineseCLIPModel",
            Self::Clip => "CLIP (OpenAI, open_clip)",
            Self::HuggingFaceClip => "Hugging Face CLIPModel",
            Self::Bert => "BERT",
            Self::Unknown => "unknown",
        })
    }
}

impl StateDictFormat {
    /// The layout that has these names.
    pub(super) fn from_names<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Self {
        let has = |start: &str| names.clone().any(|name| name.starts_with(start));
        // First: both of Hugging Face's have `vision_model.`, but only a BERT tower has `layer.`,
        // where CLIP's own text tower has `layers.`.
        if has("text_model.encoder.layer.") {
            Self::HuggingFace
        } else if has("vision_model.") {
            Self::HuggingFaceClip
        } else if has("visual.") {
            if has("bert.") {
                Self::Reference
            } else {
                Self::Clip
            }
        } else if has("bert.") || has("embeddings.word_embeddings.") {
            Self::Bert
        } else {
            Self::Unknown
        }
    }

    /// Whether a name is of something that is left out by intention: heads and poolers, tables of
    /// positions, and the text tower of another language, whose `text_projection` is not ours.
    pub(super) fn is_ignored(self, name: &str) -> bool {
        let starts: &[&str] = match self {
            Self::Reference => &["bert.pooler."],
            Self::HuggingFace => &["text_model.pooler."],
            Self::Clip => &[
                "transformer.",
                "token_embedding.",
                "ln_final.",
                "positional_embedding",
                "text_projection",
                "text.",
                // The next three are scalars in OpenAI's TorchScript archives, not weights.
                "input_resolution",
                "context_length",
                "vocab_size",
                "logit_bias",
            ],
            Self::HuggingFaceClip => &["text_model.", "text_projection."],
            Self::Bert => &["bert.pooler.", "pooler.", "cls."],
            Self::Unknown => &[],
        };

        // A buffer of 0, 1, 2 … that older versions of transformers saved with the weights.
        name.ends_with(".position_ids") || starts.iter().any(|start| name.starts_with(start))
    }
}

/// Names in a few words: `cls.* (7), text_projection`; nothing if there are none.
pub fn summarize_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let group = name
            .split_once('.')
            .map_or(name.to_owned(), |(first, _)| format!("{first}.*"));
        *groups.entry(group).or_default() += 1;
    }

    let parts = groups.iter().map(|(group, count)| match count {
        1 if !group.ends_with('*') => group.clone(),
        _ => format!("{group} ({count})"),
    });

    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_few_words() {
        let names = ["cls.a", "text_projection", "cls.b.c", "pooler.dense"];
        assert_eq!(
            summarize_names(names.into_iter()),
            "cls.* (2), pooler.* (1), text_projection"
        );

        assert_eq!(summarize_names([].into_iter()), "");
    }
}

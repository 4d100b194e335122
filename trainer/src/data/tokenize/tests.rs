use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::new(Vocabulary::from_bytes(&vocabulary_file()).unwrap()));

/// The vocabulary is not ours to keep in the repository: `CNCLIP_VOCAB` names it, or the cache has it.
fn vocabulary_file() -> Vec<u8> {
    let cache = || match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    let path = std::env::var_os("CNCLIP_VOCAB")
        .map_or_else(|| cache().join("cnclip/vocab.txt"), PathBuf::from);
    let file = std::fs::read(&path).unwrap_or_else(|e| {
        panic!(
            "cannot read the vocabulary {0}: {e}. Fetch it by `tests/emoji/build --vocabulary {0}`, or set \
             CNCLIP_VOCAB to the vocab.txt of Chinese BERT (SHA-256 {VOCABULARY_SHA256})",
            path.display()
        )
    });
    Vocabulary::verify(&file, VOCABULARY_SHA256).unwrap();
    file
}

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids52: Vec<u32>,
    dataset52: Vec<u32>,
    ids128: Option<Vec<u32>>,
    ids8: Option<Vec<u32>>,
}

fn golden() -> Vec<Golden> {
    let lines = include_str!("../../../tests/golden/tokenizer/tokenizer.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_string_has_the_ids_of_the_reference() {
    let golden = golden();
    assert_eq!(golden.len(), 427);
    for Golden { text, ids52, ids128, ids8, .. } in golden {
        for (length, expected) in [(52, Some(ids52)), (128, ids128), (8, ids8)] {
            let Some(expected) = expected else { continue };
            assert_eq!(TOKENIZER.encode(&text, length), expected, "{text:?} in {length}");
        }
    }
}

#[test]
fn the_rules_of_the_data_sets_come_before_the_ids() {
    for Golden { text, dataset52, .. } in golden() {
        assert_eq!(TOKENIZER.encode(&dataset_rules(&text), 52), dataset52, "{text:?}");
    }
}

#[test]
fn the_last_sigma_of_a_word_is_lowered_as_python_does() {
    assert_eq!(dataset_rules("ΣΊΣΥΦΟΣ “A”"), "σίσυφος \"a\"");
}

#[test]
fn a_vocabulary_that_cannot_be_one_says_what_was_found() {
    let told = |bytes: &[u8]| Vocabulary::from_bytes(bytes).unwrap_err().to_string();
    assert!(told(b"ab\xff").contains("not UTF-8 from byte 2"));
    assert!(told(b"[PAD]\n[UNK]\n").contains("has 2 lines and none is [CLS]"));
    let other = Vocabulary::verify(b"abc", VOCABULARY_SHA256).unwrap_err().to_string();
    assert!(other.contains("SHA-256 ba7816bf") && other.contains("expected 45bbac6b"), "{other}");
}

proptest! {
    #[test]
    fn any_text_is_framed_and_a_shorter_context_only_cuts_it(
        text in "(\\PC|[a-z\u{4e00}-\u{4eff} \"#\u{301}]){0,80}",
        length in 0..90usize,
    ) {
        let whole = TOKENIZER.encode(&text, 4096);
        let cut = TOKENIZER.encode(&text, length);
        let (&last, inner) = cut.split_last().unwrap();
        prop_assert_eq!((cut[0], last), (101, 102));
        prop_assert_eq!(cut.len(), whole.len().min(length.max(2)));
        prop_assert_eq!(inner, &whole[..inner.len()]);
        prop_assert!(inner[1..].iter().all(|&id| id < 21_128 && ![0, 101, 102, 103].contains(&id)));
    }
}

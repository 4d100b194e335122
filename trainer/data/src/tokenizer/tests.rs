use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

mod oracle;

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::new(Vocabulary::from_bytes(&vocabulary_file()).unwrap()));

static ORACLE: LazyLock<oracle::Tokenizer> =
    LazyLock::new(|| oracle::Tokenizer::new(&String::from_utf8(vocabulary_file()).unwrap()));

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
            "cannot read the vocabulary {0}: {e}. Fetch it by `packaging/vocabulary/fetch {0}`, or set \
             CNCLIP_VOCAB to the vocab.txt of Chinese BERT (SHA-256 {VOCABULARY_SHA256})",
            path.display()
        )
    });

    Vocabulary::verify_sha256(&file, VOCABULARY_SHA256).unwrap();
    file
}

#[derive(Deserialize)]
struct Golden {
    text: String,
    #[serde(flatten)]
    ids: BTreeMap<String, Vec<u32>>,
}

fn golden() -> Vec<Golden> {
    let lines = include_str!("../../../tests/golden/tokenizer/tokenizer.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_string_has_the_ids_of_the_reference_in_every_context() {
    let golden = golden();
    assert_eq!(golden.len(), 427);
    for Golden { text, ids } in golden {
        for length in [8, 52, 128] {
            assert_eq!(
                TOKENIZER.encode(&text, length),
                ids[&format!("ids{length}")],
                "{text:?}"
            );
        }
    }
}

#[test]
fn the_rules_of_the_data_sets_come_before_the_ids() {
    for Golden { text, ids } in golden() {
        for length in [8, 52, 128] {
            let found = TOKENIZER.encode(&normalize_dataset_text(&text), length);
            assert_eq!(found, ids[&format!("dataset{length}")], "{text:?}");
        }
    }
}

#[test]
fn the_last_sigma_of_a_word_is_lowered_as_python_does() {
    assert_eq!(normalize_dataset_text("ΣΊΣΥΦΟΣ “A”"), "σίσυφος \"a\"");
}

#[test]
fn a_vocabulary_that_cannot_be_one_says_what_was_found() {
    let message = |bytes: &[u8]| Vocabulary::from_bytes(bytes).unwrap_err().to_string();
    assert!(message(b"ab\xff").contains("not UTF-8 from byte 2"));
    assert!(message(b"[PAD]\n[UNK]\n").contains("has 2 lines and none is [CLS]"));
    let other = Vocabulary::verify_sha256(b"abc", VOCABULARY_SHA256)
        .unwrap_err()
        .to_string();

    assert!(
        other.contains("SHA-256 ba7816bf") && other.contains("expected 45bbac6b"),
        "{other}"
    );
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

    #[test]
    fn any_text_has_the_ids_of_the_references_rules(parts in prop::collection::vec(part(), 0..24)) {
        let text = parts.concat();
        for length in [8, 52, 4096] {
            let expected = ORACLE.ids(&text, length);
            prop_assert_eq!(TOKENIZER.encode(&text, length), expected, "{:?}", &text);
        }
    }
}

/// A piece of text, more often than chance would have it of the kinds that the rules distinguish.
fn part() -> impl Strategy<Value = String> {
    let chosen = [
        "[CLS]",
        "[UNK]",
        "##",
        "iPhone",
        "CAFÉ",
        "İ",
        "ΑΣ",
        "ß",
        "e\u{301}",
        "①",
        "２３",
        "　",
        "\u{a0}",
        "\u{85}",
        "\u{2028}",
        "\u{1c}",
        "\u{200b}",
        "\u{feff}",
        "\0",
        "\u{fffd}",
        "\t\r\n",
        "“”‘’",
        "…—",
        "한국",
        "👍🏽",
        "न्",
        " ",
        "  ",
    ];

    prop_oneof![
        2 => any::<char>().prop_map(String::from),
        2 => "[\u{3400}-\u{9fff}\u{f900}-\u{faff}]{1,6}",
        2 => "[a-zA-Z0-9.,'-]{1,12}",
        1 => "[\u{2b0}-\u{52f}\u{1e00}-\u{20cf}\u{3000}-\u{30ff}]{1,6}",
        1 => "[a-c]{195,204}",
        3 => prop::sample::select(chosen.to_vec()).prop_map(String::from),
    ]
}

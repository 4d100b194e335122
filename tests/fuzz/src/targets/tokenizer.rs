//! Vocabularies and texts.

use cnclip_data::tokenizer::{Tokenizer, Vocabulary, normalize_dataset_text};

/// Words, pieces and special tokens of every kind that the tokenizer distinguishes.
const VOCABULARY: &str =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##a\nab\n##b\nbc\n##c\n猫\n狗\n##狗\n!\n$\n1\n##2\né\ne\n";

pub(super) fn vocabulary(data: &[u8]) -> bool {
    let Ok(vocabulary) = Vocabulary::from_bytes(data) else {
        return false;
    };

    let size = vocabulary.vocab_size();
    let tokenizer = Tokenizer::new(vocabulary);
    let ids = tokenizer.encode("a猫 ab12 [CLS] ##a éè", 32);
    assert!(ids.iter().all(|&id| (id as usize) < size));
    true
}

pub(super) fn text(data: &[u8]) -> bool {
    let vocabulary = Vocabulary::from_bytes(VOCABULARY.as_bytes()).expect("it has all tokens");
    let size = vocabulary.vocab_size() as u32;
    let tokenizer = Tokenizer::new(vocabulary);
    let text = String::from_utf8_lossy(data);
    let whole = tokenizer.encode(&text, usize::MAX);
    let (first, last) = (whole[0], whole[whole.len() - 1]);
    assert!(whole.iter().all(|&id| id < size));

    // A shorter context cuts, and changes nothing before the cut.
    for length in [0, 2, 3, 52] {
        let cut = tokenizer.encode(&text, length);
        let kept = whole.len().min(length.max(2)) - 1;
        assert_eq!(cut[..kept], whole[..kept]);
        assert_eq!((cut.len(), cut[0], cut[kept]), (kept + 1, first, last));
    }

    let normal = normalize_dataset_text(&text);
    assert_eq!(
        tokenizer.encode_batch(&[&text, &*normal], 52).1.len(),
        3,
        "where each text begins, and the end"
    );

    whole.len() > 2
}

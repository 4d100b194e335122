//! Limits of Kubernetes on the length of texts. They count bytes, of which a Chinese character has three.

/// Note of an event. The API server rejects a longer one.
pub(crate) const MAX_EVENT_NOTE_BYTES: usize = 1024;

/// Message of a condition.
pub(crate) const MAX_CONDITION_MESSAGE_BYTES: usize = 32_768;

/// The start of a text: whole characters in at most `max_bytes`.
pub(crate) fn truncate_to_bytes(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_bytes_between_characters() {
        let rows = [
            ("", 3, ""),
            ("abcd", 3, "abc"),
            ("abc", 3, "abc"),
            ("中文", 6, "中文"),
            ("中文", 5, "中"),
            ("a中文", 5, "a中"),
            ("中", 2, ""),
            ("🐼中", 6, "🐼"),
        ];

        for (text, max_bytes, expected) in rows {
            assert_eq!(
                truncate_to_bytes(text, max_bytes),
                expected,
                "{text}, {max_bytes} bytes"
            );
        }
    }
}

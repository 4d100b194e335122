//! JSON as other programs write it: with a byte order mark, and with Python's `NaN` and `Infinity`.

use serde::de::DeserializeOwned;

/// The byte order mark of UTF-8, which editors on Windows write.
pub const BYTE_ORDER_MARK: &str = "\u{FEFF}";

/// Numbers that Python's `json` writes and no JSON has; longer ones first.
const NOT_NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Parses one value. `NaN` and `Infinity` are read as `null`, as tables with missing values hold them.
///
/// ```
/// use serde_json::Value;
///
/// let label: Value = cnclip_data::json::parse_json(br#"{"caption": "NaN", "similarity": NaN}"#).unwrap();
/// assert_eq!(label["caption"], "NaN");
/// assert!(label["similarity"].is_null());
/// ```
///
/// # Errors
/// If it is none, or no `T`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let bytes = strip_byte_order_mark(bytes);
    serde_json::from_slice(bytes).or_else(|error| match replace_not_numbers(bytes) {
        Some(replaced) => serde_json::from_slice(&replaced),
        None => Err(error),
    })
}

/// The bytes behind a byte order mark, if they begin with one.
pub fn strip_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_prefix(BYTE_ORDER_MARK.as_bytes())
        .unwrap_or(bytes)
}

/// The same with `null` for what Python writes for numbers that are none; `None` if there is nothing of the kind.
fn replace_not_numbers(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut is_in_string = false;
    let mut is_escaped = false;
    let mut found = false;
    let mut rest = bytes;

    while let Some((&byte, tail)) = rest.split_first() {
        let word = NOT_NUMBERS.into_iter().find(|word| rest.starts_with(word));
        if let (false, Some(word)) = (is_in_string, word) {
            found = true;
            replaced.extend_from_slice(b"null");
            rest = &rest[word.len()..];
            continue;
        }

        is_in_string ^= byte == b'"' && !is_escaped;
        is_escaped = is_in_string && byte == b'\\' && !is_escaped;
        replaced.push(byte);
        rest = tail;
    }

    found.then_some(replaced)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_python_and_windows_write_is_read() {
        let table = [
            ("\u{FEFF}{\"a\": 1}", json!({"a": 1})),
            (
                "{\"a\": NaN, \"b\": [Infinity, -Infinity]}",
                json!({"a": null, "b": [null, null]}),
            ),
            (
                r#"{"a": "NaN \" NaN", "b": NaN}"#,
                json!({"a": "NaN \" NaN", "b": null}),
            ),
            (r#"{"a": "\\", "b": NaN}"#, json!({"a": "\\", "b": null})),
        ];

        for (text, expected) in table {
            let found: Value = parse_json(text.as_bytes()).unwrap();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in ["", "{", "{\"a\": nan}", "NaNx", "{\"a\": \"NaN}"] {
            assert!(parse_json::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! JSON objects, one a line, with the number of the line in every error. Never holds more than one.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::json::{parse_json, strip_byte_order_mark};

/// A source of JSON lines, and what its errors say.
///
/// ```
/// use cnclip_data::error::Result;
/// use cnclip_data::jsonl::JsonLines;
///
/// let mut sum = 0;
/// let mut lines = JsonLines::new(&b"1\n\n2\nx"[..], "numbers.jsonl", "a number");
/// let error = lines
///     .for_each(|_, number: u32| -> Result<()> {
///         sum += number;
///         Ok(())
///     })
///     .unwrap_err();
///
/// assert_eq!(sum, 3);
/// assert_eq!(error.to_string(), "numbers.jsonl line 4, column 1: expected value. Expected a number.");
/// ```
#[derive(Debug)]
pub struct JsonLines<R> {
    reader: R,
    name: String,
    expected: &'static str,
}

/// The place of a line, for errors.
#[derive(Clone, Copy, Debug)]
pub struct LinePosition<'a> {
    name: &'a str,
    /// From 1.
    pub number: u64,
}

impl fmt::Display for LinePosition<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} line {}", self.name, self.number)
    }
}

impl JsonLines<BufReader<File>> {
    /// The lines of a file; `expected` is shown where one is something else.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn open(path: &Path, expected: &'static str) -> Result<Self> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        Ok(Self::new(
            BufReader::new(file),
            path.display().to_string(),
            expected,
        ))
    }
}

impl<R: BufRead> JsonLines<R> {
    /// The lines of any reader; `name` is what errors call it.
    pub fn new(reader: R, name: impl Into<String>, expected: &'static str) -> Self {
        Self {
            reader,
            name: name.into(),
            expected,
        }
    }

    /// Passes every line that is not blank to `take`, in order, with its place.
    ///
    /// # Errors
    /// A line that is no `T`, or the first error of `take`.
    pub fn for_each<T: DeserializeOwned, E: From<Error>>(
        &mut self,
        mut take: impl FnMut(LinePosition<'_>, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self {
            reader,
            name,
            expected,
        } = self;

        // Split at bytes and not at characters: a line that is no UTF-8 is an error of that line alone.
        for (number, line) in (1..).zip(reader.by_ref().split(b'\n')) {
            let line = line.map_err(Error::file("read", &*name))?;
            let line = match number {
                1 => strip_byte_order_mark(&line),
                _ => &line,
            };

            if line.trim_ascii().is_empty() {
                continue;
            }

            let place = LinePosition { name, number };

            let value = parse_json(line).map_err(|error| {
                // serde_json counts lines from the start of its input, which is this line: its number is always 1.
                let message = error.to_string();
                let what = message.split(" at line ").next().unwrap_or(&message);
                let column = error.column();
                Error::Data(format!(
                    "{place}, column {column}: {what}. Expected {expected}."
                ))
            })?;

            take(place, value)?;
        }

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_count_and_are_left_out() {
        let mut seen = Vec::new();
        let mut lines = JsonLines::new(&b"1\n\n \r\n2\r\n3"[..], "numbers", "a number");
        lines
            .for_each(|place, value: u8| -> Result<()> {
                seen.push((place.to_string(), value));
                Ok(())
            })
            .unwrap();

        let expected = [
            ("numbers line 1", 1),
            ("numbers line 4", 2),
            ("numbers line 5", 3),
        ];

        assert_eq!(
            seen,
            expected.map(|(place, value)| (place.to_owned(), value))
        );
    }

    #[test]
    fn a_byte_order_mark_and_pythons_nan_are_read() {
        let text = "\u{FEFF}{\"text\": \"猫\", \"similarity\": NaN}\n{\"text\": \"狗\"}";
        let mut lines = JsonLines::new(text.as_bytes(), "texts", "a text");
        let mut texts = Vec::new();
        lines
            .for_each(|_, line: serde_json::Value| -> Result<()> {
                texts.push(line["text"].clone());
                Ok(())
            })
            .unwrap();

        assert_eq!(texts, ["猫", "狗"]);
    }

    #[test]
    fn a_line_of_something_else_is_an_error_with_its_place() {
        let mut lines = JsonLines::new(&b"1\n[2]"[..], "numbers", "a number");
        let error = lines
            .for_each(|_, _: u8| -> Result<()> { Ok(()) })
            .unwrap_err();
        let expected =
            "numbers line 2, column 0: invalid type: sequence, expected u8. Expected a number.";
        assert_eq!(
            (error.to_string().as_str(), error.exit().exit_code()),
            (expected, 65)
        );
    }
}

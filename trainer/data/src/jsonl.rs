//! JSON objects, one a line, and the number of the line in every refusal. Never holds more than one.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Lines of JSON, and how they are told.
#[derive(Debug)]
pub struct JsonLines<R> {
    reader: R,
    name: String,
    expected: &'static str,
}

/// A line of something, as a refusal tells it.
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
    /// The lines of anything that is read; `name` says what that is.
    pub fn new(reader: R, name: impl Into<String>, expected: &'static str) -> Self {
        Self {
            reader,
            name: name.into(),
            expected,
        }
    }

    /// Gives every line that is not blank to `take`, in order, and its place for a refusal.
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

        for (number, line) in (1..).zip(reader.by_ref().split(b'\n')) {
            let line = line.map_err(Error::file("read", &*name))?;
            if line.trim_ascii().is_empty() {
                continue;
            }

            let place = LinePosition { name, number };

            let value = serde_json::from_slice(&line).map_err(|error| {
                let told = error.to_string();
                let what = told.split(" at line ").next().unwrap_or(&told);
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
    fn a_line_of_something_else_is_told_with_its_place() {
        let mut lines = JsonLines::new(&b"1\n[2]"[..], "numbers", "a number");
        let error = lines
            .for_each(|_, _: u8| -> Result<()> { Ok(()) })
            .unwrap_err();
        let told =
            "numbers line 2, column 0: invalid type: sequence, expected u8. Expected a number.";
        assert_eq!(
            (error.to_string().as_str(), error.exit().exit_code()),
            (told, 65)
        );
    }
}

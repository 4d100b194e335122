//! Text files with a class name or a template per line, with or without a byte order mark and with any line
//! endings.

use std::collections::HashMap;

use cnclip_data::json::BYTE_ORDER_MARK;

use super::dataset_errors::DatasetErrors;

/// Placeholder for the class name in a template.
pub(super) const PLACEHOLDER: &str = "{}";

/// Parses the names of the classes: the line number, from 0, is the class.
pub(super) fn parse_class_names(
    file: &str,
    bytes: &[u8],
    may_repeat: bool,
    mistakes: &mut DatasetErrors,
) -> Vec<String> {
    let mut names = decode_lines(file, bytes, mistakes);
    // Trailing blank lines come from editors; a blank line elsewhere is a missing name.
    while names.last().is_some_and(String::is_empty) {
        names.pop();
    }

    let mut empty = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            empty.push(index + 1);
        }
    }

    mistakes.push_with_examples(&empty, |lines| {
        format!("{file} has no name in line {lines}: every class needs one.")
    });

    let repeated = find_duplicate_names(&names);
    match may_repeat {
        true if !repeated.is_empty() => {
            tracing::warn!(file, names = repeated.join(", "), "classes share a name");
        }
        true => {}
        false => mistakes.push_with_examples(&repeated, |found| {
            format!(
                "{file} gives several classes the same name ({found}), which makes them indistinguishable. \
                 Give each its own name."
            )
        }),
    }

    names
}

/// Parses the templates; empty lines and lines that begin with `#` are skipped.
pub(super) fn parse_templates(
    file: &str,
    bytes: &[u8],
    mistakes: &mut DatasetErrors,
) -> Vec<String> {
    let before = mistakes.0.len();
    let lines = decode_lines(file, bytes, mistakes);
    let mut templates = Vec::new();
    let mut without = Vec::new();

    for (index, line) in lines.into_iter().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }

        if !line.contains(PLACEHOLDER) {
            without.push(index + 1);
        }

        templates.push(line);
    }

    mistakes.push_with_examples(&without, |lines| {
        format!(
            "{file} has no {PLACEHOLDER} in line {lines}: a template needs one where the name goes."
        )
    });

    if templates.is_empty() && mistakes.0.len() == before {
        mistakes.push_error(format!(
            "{file} has no template: write one a line, such as 一张{PLACEHOLDER}的照片。"
        ));
    }

    templates
}

/// Fills the name of a class into a template.
pub(super) fn fill_template(template: &str, name: &str) -> String {
    template.replace(PLACEHOLDER, name)
}

fn decode_lines(file: &str, bytes: &[u8], mistakes: &mut DatasetErrors) -> Vec<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let lines = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).lines();
            lines.map(|line| line.trim().to_owned()).collect()
        }
        // Not decoded by guess: GB18030 accepts most byte sequences and could yield wrong names.
        Err(error) => {
            let place = error.valid_up_to();
            mistakes.push_error(format!(
                "{file} is not UTF-8 from byte {place} on: convert it, such as with iconv -f GB18030 -t \
                 UTF-8."
            ));

            Vec::new()
        }
    }
}

/// Names that occur in several lines, with the lines.
fn find_duplicate_names(names: &[String]) -> Vec<String> {
    let mut lines_by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if !name.is_empty() {
            let lines = lines_by_name.entry(name).or_default();
            lines.push(index + 1);
        }
    }

    lines_by_name.retain(|_, lines| lines.len() > 1);

    let mut repeated: Vec<_> = lines_by_name.into_iter().collect();
    // A `HashMap` iterates in random order, and messages should not differ between runs.
    repeated.sort_by(|(_, a), (_, b)| a.cmp(b));

    let describe = |(name, lines): (&str, Vec<usize>)| {
        let lines: Vec<_> = lines.iter().map(usize::to_string).collect();

        let lines = lines.join(" and ");
        format!("{name} in lines {lines}")
    };

    repeated.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_names(bytes: &[u8], may_repeat: bool) -> (Vec<String>, String) {
        let mut mistakes = DatasetErrors::default();
        let names = parse_class_names("label_cn.txt", bytes, may_repeat, &mut mistakes);
        (names, mistakes.0.join(" "))
    }

    #[test]
    fn names_are_read_however_the_file_was_saved() {
        for bytes in [
            "猫\n狗",
            "猫\n狗\n",
            "\u{FEFF}猫\r\n狗\r\n",
            " 猫 \n\u{3000}狗\n\n \n",
        ] {
            let (names, mistakes) = of_names(bytes.as_bytes(), false);
            assert_eq!(
                (names.join("|").as_str(), mistakes.as_str()),
                ("猫|狗", ""),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn unusable_names_are_reported() {
        let gbk = [0xB9, 0xB7, b'\n'];
        let utf16 = [0xFF, 0xFE, 0x2B, 0x73];
        let table: [(&[u8], &str); 5] = [
            ("猫\n\n狗\n".as_bytes(), "no name in line 2:"),
            ("猫\n狗\n猫\n".as_bytes(), "same name (猫 in lines 1 and 3)"),
            (&gbk, "not UTF-8 from byte 0 on: convert it"),
            (&utf16, "not UTF-8 from byte 0 on"),
            (b"a\nb\xFF", "not UTF-8 from byte 3 on"),
        ];

        for (bytes, expected) in table {
            let (_, mistakes) = of_names(bytes, false);
            assert!(mistakes.contains(expected), "{mistakes}");
        }

        assert_eq!(
            of_names("猫\n猫\n".as_bytes(), true).1,
            "",
            "a custom of its data set"
        );
    }

    #[test]
    fn templates_are_lines_with_a_place_for_the_name() {
        let of = |text: &str| {
            let mut mistakes = DatasetErrors::default();
            let found = parse_templates("a.txt", text.as_bytes(), &mut mistakes);
            (found, mistakes.0.join(" "))
        };

        let (found, mistakes) = of("\u{FEFF}# ours\r\n\r\n{}的画。\r\n{}\r\n{}\r\n");
        assert_eq!(
            (found.as_slice(), mistakes.as_str()),
            (&["{}的画。", "{}", "{}"].map(String::from)[..], "")
        );

        assert_eq!(fill_template(&found[0], "猫"), "猫的画。");
        assert!(of("{}\n画\n\n照片\n").1.contains("no {} in line 2, 4:"));
        assert!(of("# nothing\n\n").1.contains("has no template"));
    }
}

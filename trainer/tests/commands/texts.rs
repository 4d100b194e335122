use std::io::Write;

use serde_json::Value;

use super::*;

#[test]
fn every_golden_text_becomes_the_references_ids() {
    let file = std::fs::read_to_string(golden("tokenizer/tokenizer.jsonl")).unwrap();
    let rows: Vec<Value> = file
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();

    for (length, rules, key) in [
        ("8", None, "ids8"),
        ("52", None, "ids52"),
        ("128", Some("--dataset-rules"), "dataset128"),
    ] {
        let arguments = ["tokenize", "--context-length", length]
            .into_iter()
            .chain(rules);
        let output = succeed(&arguments.collect::<Vec<_>>(), file.as_bytes());
        let lines = String::from_utf8(output).unwrap();
        assert_eq!(lines.lines().count(), rows.len());
        for (line, row) in lines.lines().zip(&rows) {
            assert_eq!(
                line.parse::<Value>().unwrap(),
                row[key],
                "{} {key}",
                row["text"]
            );
        }
    }
}

#[test]
fn texts_are_tokenized_with_a_vocabulary_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = folder.path().join("vocab.txt");
    std::fs::write(&vocabulary, "[UNK]\n[CLS]\n[SEP]\n猫\nab\n##c\n").unwrap();
    let arguments = [
        "tokenize",
        "--context-length",
        "5",
        "--vocab",
        words(&vocabulary),
    ];

    let output = succeed(
        &arguments,
        "{\"text\": \"abc猫猫\"}\n\n{\"text\": \"\", \"n\": 1}".as_bytes(),
    );

    assert_eq!(output, b"[1,4,5,3,2]\n[1,2]\n");
    refuse(
        &arguments,
        b"{\"text\": \"\"}\n{\"txt\": 1}",
        65,
        "standard input line 2, column 10",
    );

    let nowhere = ["tokenize", "--context-length", "5", "--vocab", "/nowhere"];
    refuse(&nowhere, b"", 78, "/nowhere");
    assert_eq!(
        cnclip(&["tokenize", "--context-length", "1"], b"")
            .status
            .code(),
        Some(64)
    );
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let line = format!("{{\"text\": \"{}\"}}\n", "猫".repeat(50));
    let mut program = start(&["tokenize", "--context-length", "52"]);
    drop(program.stdout.take());
    let mut stdin = program.stdin.take().unwrap();
    // It stops reading after the first line that it cannot answer.
    let _ = (0..100_000).try_for_each(|_| stdin.write_all(line.as_bytes()));
    drop(stdin);
    let output = program.wait_with_output().unwrap();

    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

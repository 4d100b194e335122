//! The reference under docs/reference is that of the program. `UPDATE=1 cargo test` writes it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::path::Path;
use std::process::Command;

const GENERATED: &str =
    "<!-- Generated from the code: UPDATE=1 cargo test -p cnclip-trainer --test reference -->\n";

/// Asserts that a committed file holds this; writes it first if asked to.
fn assert_committed(file: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
    }

    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == content, "{file} is old: UPDATE=1 writes it");
}

fn help_of(command: Option<&str>) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cnclip"));
    let output = program.args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Lines end where the text does, whatever the terminal's width.
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The subcommands that the help of the program lists.
fn subcommands(help: &str) -> Vec<&str> {
    let list = help.split("Commands:\n").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap();
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect()
}

#[test]
fn every_command_is_in_the_reference() {
    let help = help_of(None);
    let commands = subcommands(&help);
    assert!(commands.len() > 10, "{commands:?}");
    let mut text = format!("{GENERATED}\n# Command line\n\n```text\n{help}\n```\n");
    for command in commands {
        text += &format!(
            "\n## cnclip {command}\n\n```text\n{}\n```\n",
            help_of(Some(command))
        );
    }

    assert_committed("docs/reference/cli.md", &text);
}

#[test]
fn every_metric_of_the_trainer_is_in_the_reference() {
    let source = include_str!("../src/progress/metrics.rs");
    let mut text = format!(
        "{GENERATED}\n# Metrics of the trainer\n\nServed on `/metrics` of worker 0, with the labels `run` and `stage`.\n\n\
         | metric | type | what it is |\n|---|---|---|\n"
    );

    // Rows of the table of metrics: gauge("name", "help", ...
    let mut count = 0;
    for row in source.lines() {
        let Some((kind, row)) = row.trim().split_once("(\"") else {
            continue;
        };

        let mut parts = row.split('"');
        let (Some(name), Some(help)) = (parts.next(), parts.nth(1)) else {
            continue;
        };

        if !["gauge", "counter"].contains(&kind) {
            continue;
        }

        text += &format!("| `{name}` | {kind} | {help} |\n");
        count += 1;
    }

    assert!(count > 20, "{count} metrics");
    assert_committed("docs/reference/metrics-trainer.md", &text);
}

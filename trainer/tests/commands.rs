//! The commands that other programs drive, by the built program, on the reference's own numbers.
#![cfg(test)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use cnclip::weights::{TensorMap, read_safetensors};
use cnclip_crds::trainer_config::TrainConfig;

#[path = "commands/embed.rs"]
mod embed;
#[path = "commands/export.rs"]
mod export;
#[path = "commands/gradients.rs"]
mod gradients;
#[path = "commands/inspect.rs"]
mod inspect;
#[path = "commands/pictures.rs"]
mod pictures;
#[path = "commands/score.rs"]
mod score;
#[path = "support/small.rs"]
#[expect(dead_code, reason = "what other tests ask for is there too")]
mod small;
#[path = "commands/splits.rs"]
mod splits;
#[path = "commands/texts.rs"]
mod texts;
#[path = "commands/verify.rs"]
mod verify;

/// Trains a small model in a folder; says of what and where.
fn trained(folder: &Path) -> TrainConfig {
    let file = folder.join("train.json");
    let config = small::train_config(folder, "run");
    std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
    succeed(&["train", "--config", words(&file)], b"");

    config
}

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_cnclip"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs the program with words on its standard input.
fn cnclip(arguments: &[&str], input: &[u8]) -> Output {
    let mut program = start(arguments);
    let mut stdin = program.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A program that refuses its arguments reads nothing.
        let _ = stdin.write_all(&input);
    });

    let output = program.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn succeed(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = cnclip(arguments, input);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    output.stdout
}

/// Asserts that the program ends with a code and one line that says why.
fn refuse(arguments: &[&str], input: &[u8], code: i32, expected: &str) {
    let output = cnclip(arguments, input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(expected), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn words(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tensors(path: &Path) -> TensorMap {
    read_safetensors(&std::fs::read(path).unwrap()).unwrap()
}

//! Every target with its corpus and with mutations of it: what a parser must survive in every test run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends where something is not as it should be, and says on which input"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cnclip_fuzz::{FuzzTarget, targets::TARGETS};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Mutations of each target.
const MAX_MUTATIONS: usize = 4000;
/// Time for the mutations of each target: on a slow machine there are fewer of them.
const MUTATION_TIME: Duration = Duration::from_millis(400);

/// Numbers at which lengths, offsets and counts go wrong.
const EDGE_NUMBERS: [u64; 12] = [
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 48,
    i64::MAX as u64,
    u64::MAX,
];

/// One change of an input.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Number(Index, u64, usize, bool),
    Cut(Index),
}

impl Edit {
    fn strategy() -> impl Strategy<Value = Edit> {
        let at = any::<Index>;
        prop_oneof![
            3 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
            1 => (at(), 1..64usize).prop_map(|(at, count)| Edit::Remove(at, count)),
            1 => (at(), 1..64usize).prop_map(|(at, count)| Edit::Repeat(at, count)),
            2 => (at(), select(&EDGE_NUMBERS[..]), select(&[1, 2, 4, 8][..]), any::<bool>())
                .prop_map(|(at, number, width, big)| Edit::Number(at, number, width, big)),
            1 => at().prop_map(Edit::Cut),
        ]
    }

    fn apply(&self, input: &mut Vec<u8>) {
        if input.is_empty() {
            return;
        }

        match self {
            Self::Set(at, byte) => {
                let at = at.index(input.len());
                input[at] = *byte;
            }
            Self::Remove(at, count) => {
                let at = at.index(input.len());
                let end = input.len().min(at + count);
                input.drain(at..end);
            }
            Self::Repeat(at, count) => {
                let at = at.index(input.len());
                let end = input.len().min(at + count);
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            Self::Number(at, number, width, is_big_endian) => {
                let at = at.index(input.len());
                let mut bytes = number.to_le_bytes()[..*width].to_vec();
                if *is_big_endian {
                    bytes.reverse();
                }

                let end = input.len().min(at + width);
                input.splice(at..end, bytes);
            }
            Self::Cut(at) => input.truncate(at.index(input.len())),
        }
    }
}

fn corpus(target: &FuzzTarget) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();

    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// An input of the corpus, edited a few times. The same sequence in every run, so that a test that fails fails again.
fn mutations(corpus: Vec<Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let edits = prop::collection::vec(Edit::strategy(), 1..6);
    let strategy = (select(corpus), edits).prop_map(|(mut input, edits)| {
        edits.iter().for_each(|edit| edit.apply(&mut input));
        input
    });

    std::iter::repeat_with(move || strategy.new_tree(&mut runner).unwrap().current())
}

// One test and not one for each target: memory is counted for the whole process.
#[test]
fn every_target_survives_its_corpus_and_mutations_of_it() {
    let mut only_refusing = Vec::new();
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);

        let taken = corpus.iter().filter(|input| run(target, input)).count();
        if taken == 0 {
            only_refusing.push(target.name);
        }

        let start = Instant::now();
        for input in mutations(corpus).take(MAX_MUTATIONS) {
            run(target, &input);
            if start.elapsed() > MUTATION_TIME {
                break;
            }
        }
    }

    // They would test only how a parser refuses.
    let none = Vec::<&str>::new();
    assert_eq!(only_refusing, none, "take nothing of their corpus");
}

/// Runs an input, which is kept in a file if the parser breaks a promise; says whether the parser took it.
fn run(target: &FuzzTarget, input: &[u8]) -> bool {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.input", target.name));
    // Before the run: an input that aborts the process leaves nothing behind afterwards.
    fs::write(&kept, input).unwrap();
    let result = std::panic::catch_unwind(|| target.run(input));
    let is_taken = result.unwrap_or_else(|cause| {
        eprintln!("{} fails on {}", target.name, kept.display());
        std::panic::resume_unwind(cause)
    });

    fs::remove_file(&kept).unwrap();
    is_taken
}

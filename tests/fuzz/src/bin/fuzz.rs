//! libFuzzer on one target: `CNCLIP_FUZZ_TARGET=pickle fuzz corpus/pickle`. Its own options follow, such as
//! `-max_total_time=3600`.

#![no_main]
#![allow(clippy::print_stderr, reason = "a program that people start")]

use std::sync::LazyLock;

use cnclip_fuzz::{FuzzTarget, find_target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&FuzzTarget> = LazyLock::new(|| {
    let name = std::env::var("CNCLIP_FUZZ_TARGET").unwrap_or_default();
    find_target(&name).unwrap_or_else(|| {
        let known = cnclip_fuzz::targets::TARGETS.iter();
        let known: Vec<_> = known.map(|target| target.name).collect();
        eprintln!("no target {name:?}; known are {}", known.join(", "));
        std::process::exit(64)
    })
});

fuzz_target!(|data: &[u8]| {
    TARGET.run(data);
});

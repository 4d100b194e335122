//! Fuzz targets: one function for each parser of what others write. Each takes bytes and panics if the parser breaks
//! a promise: it returns a value or an error, in bounded memory, and the same for the same bytes.
//!
//! `cargo test -p cnclip-fuzz` feeds every target its corpus and mutations of it, in seconds.
//! `make fuzz TARGET=pickle SECONDS=3600` searches with coverage guidance. See README.md.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a target panics where a parser breaks a promise"
)]

pub mod memory;
pub mod targets;

use memory::MemoryBound;

/// One parser under test.
pub struct FuzzTarget {
    /// Its name, which is also that of its folder below `corpus/`.
    pub name: &'static str,
    /// How much memory an input may take.
    pub memory: MemoryBound,
    /// Gives an input to the parser and checks what it promises; says whether the parser took it.
    pub check: fn(&[u8]) -> bool,
}

impl FuzzTarget {
    /// Runs one input within the memory bound; says whether the parser took it.
    ///
    /// # Panics
    /// If the parser breaks a promise. Aborts if it allocates more than the machine has.
    pub fn run(&self, data: &[u8]) -> bool {
        memory::assert_bounded(self.memory, data, self.check)
    }
}

/// The target of this name.
pub fn find_target(name: &str) -> Option<&'static FuzzTarget> {
    targets::TARGETS.iter().find(|target| target.name == name)
}

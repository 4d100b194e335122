//! How much memory a parser may take for an input: a length that the input declares is no reason to allocate it.

use peak_alloc::PeakAlloc;

/// Counts what the process has allocated.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The most that may be allocated at one time.
///
/// # Units
/// Bytes
#[derive(Clone, Copy, Debug)]
pub struct MemoryBound {
    /// Whatever the length of the input.
    pub fixed: usize,
    /// For each byte of input.
    pub per_byte: usize,
}

impl MemoryBound {
    /// Of parsers: buffers of a fixed size, and values that are larger than their text.
    pub const PARSER: Self = Self {
        fixed: 64 << 20,
        per_byte: 100,
    };
    /// Of image decoders, which hold the pixels that a header announces: as many as Pillow's limit allows, with four
    /// channels, twice while channels are dropped.
    pub const IMAGE: Self = Self {
        fixed: 2 << 30,
        per_byte: 100,
    };
}

/// Runs `check` and compares the peak of allocated memory with the bound.
///
/// # Panics
/// If the peak is above it.
pub(super) fn assert_bounded(bound: MemoryBound, data: &[u8], check: fn(&[u8]) -> bool) -> bool {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();

    let is_taken = check(data);

    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    let allowed = bound.fixed + bound.per_byte * data.len();
    assert!(
        taken <= allowed,
        "an input of {} bytes took {taken} bytes of memory, allowed are {allowed}",
        data.len()
    );

    is_taken
}

//! A kernel, what it is given, and how many threads run it.

use super::{Device, Format, Span, SpanMut};

/// One argument, as the kernel's signature has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer.
    Address(u64),
    /// An `unsigned int`.
    Whole(u32),
    /// An `unsigned long long`.
    Long(u64),
    /// A `float`.
    Real(f32),
}

/// A kernel, its arguments in their order, and its grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The name that the kernel's source exports.
    pub kernel: String,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block, in a row.
    pub threads: u32,
    /// What the kernel is given.
    pub arguments: Vec<Argument>,
}

impl Launch {
    /// A kernel for numbers of a format: `name_f32` or `name_bf16`.
    pub fn typed(name: &str, format: Format) -> Self {
        let end = if format == Format::Bf16 {
            "bf16"
        } else {
            "f32"
        };

        Self::new(&format!("{name}_{end}"))
    }

    /// A kernel by its whole name, of one block of 256 threads until it is said otherwise.
    pub fn new(name: &str) -> Self {
        Self {
            kernel: name.to_owned(),
            grid: [1; 3],
            threads: 256,
            arguments: Vec::new(),
        }
    }

    /// So many blocks.
    pub fn grid(mut self, x: usize, y: usize, z: usize) -> Self {
        self.grid = [x, y, z].map(|blocks| blocks as u32);
        self
    }

    /// So many threads in a block.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads as u32;
        self
    }

    /// As many blocks of 256 threads as give each of so many things a thread.
    pub fn over(self, things: usize) -> Self {
        self.grid(things.div_ceil(256), 1, 1)
    }

    /// A pointer to numbers that are read.
    pub fn read(mut self, span: Span<'_>) -> Self {
        self.arguments.push(Argument::Address(span.address()));
        self
    }

    /// A pointer to numbers that are written.
    pub fn write(self, span: &mut SpanMut<'_>) -> Self {
        self.read(span.span())
    }

    /// A pointer that may be absent: null.
    pub fn read_or_null(mut self, span: Option<Span<'_>>) -> Self {
        self.arguments
            .push(Argument::Address(span.map_or(0, |span| span.address())));
        self
    }

    /// A pointer to where the same numbers are kept rounded, or null.
    pub fn write_rounded(self, span: &mut SpanMut<'_>) -> Self {
        self.read_or_null(span.span().rounded())
    }

    /// A whole number.
    pub fn whole(mut self, number: usize) -> Self {
        assert!(
            u32::try_from(number).is_ok(),
            "{number} does not fit into 32 bits"
        );

        self.arguments.push(Argument::Whole(number as u32));
        self
    }

    /// A whole number of 64 bits.
    pub fn long(mut self, number: u64) -> Self {
        self.arguments.push(Argument::Long(number));
        self
    }

    /// A number.
    pub fn real(mut self, number: f32) -> Self {
        self.arguments.push(Argument::Real(number));
        self
    }

    /// Runs it, unless it has nothing to do.
    pub fn run(self, device: &Device) {
        if self.grid.iter().all(|&blocks| blocks > 0) {
            device.launch(&self);
        }
    }
}

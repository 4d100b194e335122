//! A kernel, what it is given, and how many threads run it.

use super::{DType, Device, DeviceView, DeviceViewMut};

/// One argument, as the kernel's signature has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KernelArgument {
    /// A pointer.
    Address(u64),
    /// An `unsigned int`.
    U32(u32),
    /// An `unsigned long long`.
    U64(u64),
    /// A `float`.
    F32(f32),
}

/// A kernel, its arguments in their order, and its grid.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelLaunch {
    /// The name that the kernel's source exports.
    pub kernel: String,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block, in a row.
    pub threads: u32,
    /// What the kernel is given.
    pub arguments: Vec<KernelArgument>,
}

impl KernelLaunch {
    /// A kernel for numbers of a format: `name_f32` or `name_bf16`.
    pub fn for_dtype(name: &str, format: DType) -> Self {
        let end = if format == DType::Bf16 { "bf16" } else { "f32" };

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
    pub fn with_grid(mut self, x: usize, y: usize, z: usize) -> Self {
        self.grid = [x, y, z].map(|blocks| blocks as u32);
        self
    }

    /// So many threads in a block.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads as u32;
        self
    }

    /// As many blocks of 256 threads as give each of so many things a thread.
    pub fn with_thread_per_item(self, things: usize) -> Self {
        self.with_grid(things.div_ceil(256), 1, 1)
    }

    /// A pointer to numbers that are read.
    pub fn arg_input(mut self, span: DeviceView<'_>) -> Self {
        self.arguments.push(KernelArgument::Address(span.address()));
        self
    }

    /// A pointer to numbers that are written.
    pub fn arg_output(self, span: &mut DeviceViewMut<'_>) -> Self {
        self.arg_input(span.as_view())
    }

    /// A pointer that may be absent: null.
    pub fn arg_input_or_null(mut self, span: Option<DeviceView<'_>>) -> Self {
        self.arguments.push(KernelArgument::Address(
            span.map_or(0, |span| span.address()),
        ));
        self
    }

    /// A pointer to where the same numbers are kept rounded, or null.
    pub fn arg_bf16_output(self, span: &mut DeviceViewMut<'_>) -> Self {
        self.arg_input_or_null(span.as_view().bf16_copy())
    }

    /// A whole number.
    pub fn arg_u32(mut self, number: usize) -> Self {
        assert!(
            u32::try_from(number).is_ok(),
            "{number} does not fit into 32 bits"
        );

        self.arguments.push(KernelArgument::U32(number as u32));
        self
    }

    /// A whole number of 64 bits.
    pub fn arg_u64(mut self, number: u64) -> Self {
        self.arguments.push(KernelArgument::U64(number));
        self
    }

    /// A number.
    pub fn arg_f32(mut self, number: f32) -> Self {
        self.arguments.push(KernelArgument::F32(number));
        self
    }

    /// Runs it, unless it has nothing to do.
    pub fn launch_on(self, device: &Device) {
        if self.grid.iter().all(|&blocks| blocks > 0) {
            device.launch_kernel(&self);
        }
    }
}

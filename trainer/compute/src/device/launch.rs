//! The launch of a kernel: its arguments and its grid.

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
///
/// ```
/// use cnclip_compute::device::{DType, KernelArgument, KernelLaunch};
///
/// let launch = KernelLaunch::for_dtype("gelu_forward", DType::Bf16)
///     .with_thread_per_item(1000)
///     .arg_u32(1000);
/// assert_eq!(launch.kernel, "gelu_forward_bf16");
/// assert_eq!(launch.grid, [4, 1, 1]); // blocks of 256 threads
/// assert_eq!(launch.arguments, [KernelArgument::U32(1000)]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct KernelLaunch {
    /// The name that the kernel's source exports.
    pub kernel: String,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block, in a row.
    pub threads: u32,
    /// Arguments, in the order of the kernel's signature.
    pub arguments: Vec<KernelArgument>,
}

impl KernelLaunch {
    /// The kernel of a number format: `name_f32` or `name_bf16`.
    pub fn for_dtype(name: &str, dtype: DType) -> Self {
        let suffix = if dtype == DType::Bf16 { "bf16" } else { "f32" };

        Self::new(&format!("{name}_{suffix}"))
    }

    /// A kernel by its full name, with one block of 256 threads.
    pub fn new(name: &str) -> Self {
        Self {
            kernel: name.to_owned(),
            grid: [1; 3],
            threads: 256,
            arguments: Vec::new(),
        }
    }

    /// Blocks in each direction.
    pub fn with_grid(mut self, x: usize, y: usize, z: usize) -> Self {
        // CUDA's limits (2³¹ - 1 blocks in x, 65,535 in y and z) are checked by the driver.
        self.grid = [x, y, z].map(|blocks| blocks as u32);
        self
    }

    /// Threads of a block.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads as u32;
        self
    }

    /// As many blocks of 256 threads as give every item a thread.
    pub fn with_thread_per_item(self, items: usize) -> Self {
        self.with_grid(items.div_ceil(256), 1, 1)
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

    /// A pointer to numbers that are read, or null.
    pub fn arg_input_or_null(mut self, span: Option<DeviceView<'_>>) -> Self {
        self.arguments.push(KernelArgument::Address(
            span.map_or(0, |span| span.address()),
        ));
        self
    }

    /// A pointer to the bfloat16 copy, or null.
    pub fn arg_bf16_output(self, span: &mut DeviceViewMut<'_>) -> Self {
        self.arg_input_or_null(span.as_view().bf16_copy())
    }

    /// How many numbers an array has, as a `u64`: activations of a large batch are more than 32 bits count.
    pub fn arg_count(self, numbers: usize) -> Self {
        self.arg_u64(numbers as u64)
    }

    /// An `unsigned int`.
    pub fn arg_u32(mut self, number: usize) -> Self {
        // A truncated size would not fail: the kernel would compute a part of the array.
        assert!(
            u32::try_from(number).is_ok(),
            "{number} does not fit into 32 bits"
        );

        self.arguments.push(KernelArgument::U32(number as u32));
        self
    }

    /// An `unsigned long long`.
    pub fn arg_u64(mut self, number: u64) -> Self {
        self.arguments.push(KernelArgument::U64(number));
        self
    }

    /// A `float`.
    pub fn arg_f32(mut self, number: f32) -> Self {
        self.arguments.push(KernelArgument::F32(number));
        self
    }

    /// Launches it, unless its grid is empty: drivers refuse a launch of no blocks.
    pub fn launch_on(self, device: &Device) {
        if self.grid.iter().all(|&blocks| blocks > 0) {
            device.launch_kernel(&self);
        }
    }
}

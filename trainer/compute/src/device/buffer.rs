//! Buffers in a device's memory, and views of them.

use std::ops::Range;

use bytemuck::cast_slice;
use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::{Device, DeviceAddress};

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper 16 bits of single precision.
    Bf16,
    /// An unsigned integer of 32 bits.
    U32,
    /// A byte.
    U8,
}

impl DType {
    /// Bytes of a number.
    pub fn size_in_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }
}

/// A buffer in a device's memory; freed when it is dropped.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: Device,
    address: DeviceAddress,
    len: usize,
    dtype: DType,
    /// A second buffer with the same numbers rounded to bfloat16.
    bf16_copy: Option<DeviceAddress>,
}

impl DeviceBuffer {
    /// Zeros. If memory is too little, that is the device's first error.
    pub fn new(device: &Device, len: usize, dtype: DType) -> Self {
        let address = allocate_zeroed(device, len * dtype.size_in_bytes());
        Self {
            device: device.clone(),
            address,
            len,
            dtype,
            bf16_copy: None,
        }
    }

    /// The same with a bfloat16 copy, which every write keeps equal to the rounded numbers.
    pub fn with_bf16_copy(mut self) -> Self {
        self.bf16_copy = Some(allocate_zeroed(
            &self.device,
            self.len * DType::Bf16.size_in_bytes(),
        ));
        self
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All elements.
    pub fn as_view(&self) -> DeviceView<'_> {
        DeviceView {
            device: &self.device,
            address: self.address,
            len: self.len,
            dtype: self.dtype,
            bf16_copy: self.bf16_copy,
        }
    }

    /// All elements, to be written.
    pub fn as_view_mut(&mut self) -> DeviceViewMut<'_> {
        DeviceViewMut(self.as_view())
    }

    /// Writes indices to the first elements, and returns a view of them.
    pub fn upload_u32(&mut self, numbers: &[u32]) -> DeviceView<'_> {
        assert!(self.dtype == DType::U32, "the buffer is not of u32");

        self.upload_prefix(cast_slice(numbers), numbers.len())
    }

    /// Writes bytes to the first elements, and returns a view of them.
    pub fn upload_bytes(&mut self, bytes: &[u8]) -> DeviceView<'_> {
        assert!(self.dtype == DType::U8, "the buffer is not of bytes");
        self.upload_prefix(bytes, bytes.len())
    }

    fn upload_prefix(&mut self, bytes: &[u8], count: usize) -> DeviceView<'_> {
        // Before the copy: slicing checks that the numbers fit into the buffer.
        let span = self.as_view().slice(0..count);
        self.device
            .run_unless_failed(|driver| driver.copy_to_device(bytes, self.address));
        span
    }
}

fn allocate_zeroed(device: &Device, bytes: usize) -> DeviceAddress {
    // Never zero bytes: an empty buffer has an address, too, which kernels may be given.
    let found = device.run_unless_failed(|driver| {
        let at = driver.allocate(bytes.max(1))?;
        driver.memset_zeros(at, bytes)?;
        Ok(at)
    });

    // Address 0 stands for no memory. No kernel sees it: after the error every call does nothing.
    found.unwrap_or_default()
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // After an error as well, when `run_unless_failed` would do nothing: the memory is still allocated.
        for at in [Some(self.address), self.bf16_copy]
            .into_iter()
            .flatten()
            .filter(|at| *at != 0)
        {
            self.device.0.driver.free(at);
        }
    }
}

/// A view of a device's buffer, to be read.
#[derive(Clone, Copy, Debug)]
pub struct DeviceView<'a> {
    device: &'a Device,
    address: DeviceAddress,
    len: usize,
    dtype: DType,
    bf16_copy: Option<DeviceAddress>,
}

impl<'a> DeviceView<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The number format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The address of the first element.
    pub fn address(&self) -> DeviceAddress {
        self.address
    }

    /// A range of the elements.
    pub fn slice(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );

        // The copy is cut at the same element, which lies at another byte in its number format.
        let at = |address: DeviceAddress, dtype: DType| {
            address + (range.start * dtype.size_in_bytes()) as u64
        };
        Self {
            address: at(self.address, self.dtype),
            len: range.len(),
            bf16_copy: self.bf16_copy.map(|bf16_copy| at(bf16_copy, DType::Bf16)),
            ..self
        }
    }

    /// The first `count` elements.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The bfloat16 copy, if there is one.
    pub fn bf16_copy(self) -> Option<Self> {
        let bf16_copy = self.bf16_copy?;
        Some(Self {
            address: bf16_copy,
            dtype: DType::Bf16,
            bf16_copy: None,
            ..self
        })
    }

    /// A copy in host memory; zeros after an error. Waits for the device.
    pub fn to_host(self) -> Vec<f32> {
        let mut bytes = vec![0_u8; self.len * self.dtype.size_in_bytes()];
        self.device
            .run_unless_failed(|driver| driver.copy_to_host(self.address, &mut bytes));

        match self.dtype {
            // Copied and not cast: a vector of bytes may not be aligned for wider numbers.
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::Bf16 => {
                let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
                halves
                    .into_iter()
                    .map(|bits| bf16::from_bits(bits).to_f32())
                    .collect()
            }
            DType::U32 => {
                let integers: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
                integers.into_iter().map(|number| number as f32).collect()
            }
            DType::U8 => bytes.into_iter().map(f32::from).collect(),
        }
    }
}

/// A view of a device's buffer, to be written.
#[derive(Debug)]
pub struct DeviceViewMut<'a>(DeviceView<'a>);

impl<'a> DeviceViewMut<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The same elements, to be read.
    pub fn as_view(&self) -> DeviceView<'_> {
        self.0
    }

    /// The device.
    pub fn device(&self) -> &'a Device {
        self.0.device
    }

    /// The same view with a shorter lifetime.
    pub fn reborrow(&mut self) -> DeviceViewMut<'_> {
        DeviceViewMut(self.0)
    }

    /// A range of the elements.
    pub fn slice(self, range: Range<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// The first `count` elements.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The first `at` elements, and the others.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (
            Self(self.0.slice(0..at)),
            Self(self.0.slice(at..self.0.len)),
        )
    }

    /// Sets every element to zero.
    pub fn fill_zeros(&mut self) {
        let DeviceView {
            device,
            address,
            len,
            dtype,
            bf16_copy,
        } = self.0;

        device
            .run_unless_failed(|driver| driver.memset_zeros(address, len * dtype.size_in_bytes()));
        if let Some(bf16_copy) = bf16_copy {
            device.run_unless_failed(|driver| {
                driver.memset_zeros(bf16_copy, len * DType::Bf16.size_in_bytes())
            });
        }
    }

    /// Copies from host memory, rounded to this number format.
    pub fn copy_from_host(&mut self, values: &[f32]) {
        assert_eq!(
            self.0.len,
            values.len(),
            "source and target of a copy differ in length"
        );

        let DeviceView {
            device,
            address,
            dtype,
            bf16_copy,
            ..
        } = self.0;

        // Rounded on the host, so that half as many bytes are uploaded; a closure, because a target
        // in fp32 without a copy needs none of it.
        let rounded = || {
            let mut halves = vec![bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            halves
                .iter()
                .map(|half| half.to_bits())
                .collect::<Vec<u16>>()
        };

        match dtype {
            DType::F32 => device
                .run_unless_failed(|driver| driver.copy_to_device(cast_slice(values), address)),
            DType::Bf16 => device
                .run_unless_failed(|driver| driver.copy_to_device(cast_slice(&rounded()), address)),
            DType::U32 | DType::U8 => panic_not_float(),
        };

        if let Some(bf16_copy) = bf16_copy {
            device.run_unless_failed(|driver| {
                driver.copy_to_device(cast_slice(&rounded()), bf16_copy)
            });
        }
    }

    /// Rounds the numbers to the bfloat16 copy, if there is one: for numbers that no operation wrote.
    pub(super) fn update_bf16_copy(&mut self) {
        if let Some(bf16_copy) = self.0.bf16_copy() {
            super::convert::convert_dtype(self.0, Self(bf16_copy));
        }
    }

    /// Takes numbers of the same device, in the same dtype.
    pub fn copy_from(&mut self, from: DeviceView<'_>) {
        assert_eq!(
            self.0.len, from.len,
            "source and target of a copy differ in length"
        );

        // A kernel also where only the bfloat16 copy has to be updated.
        if self.0.dtype != from.dtype || self.0.bf16_copy.is_some() {
            return super::convert::convert_dtype(from, self.reborrow());
        }

        let DeviceView {
            device,
            address,
            len,
            dtype,
            ..
        } = self.0;

        device.run_unless_failed(|driver| {
            driver.copy_on_device(from.address, address, len * dtype.size_in_bytes())
        });
    }
}

#[expect(clippy::panic, reason = "a bug in the caller")]
fn panic_not_float() -> ! {
    panic!("a tensor of floats cannot be copied into integers")
}

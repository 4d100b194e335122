//! Memory of a device, and borrowed parts of it.

use std::ops::Range;

use bytemuck::cast_slice;
use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::{Device, DeviceAddress};

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32 bits, of which 8 are the exponent's.
    F32,
    /// The upper 16 bits of those.
    Bf16,
    /// A whole number of 32 bits.
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

/// Memory of a device for so many numbers; given back when it is dropped.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: Device,
    address: DeviceAddress,
    len: usize,
    dtype: DType,
    /// The same numbers, rounded to bfloat16.
    bf16_copy: Option<DeviceAddress>,
}

impl DeviceBuffer {
    /// Numbers that are zero. Without enough memory there is a fault, and nothing is done any more.
    pub fn new(device: &Device, len: usize, format: DType) -> Self {
        let address = allocate_zeroed(device, len * format.size_in_bytes());
        Self {
            device: device.clone(),
            address,
            len,
            dtype: format,
            bf16_copy: None,
        }
    }

    /// The same with its numbers a second time, rounded to bfloat16.
    pub fn with_bf16_copy(mut self) -> Self {
        self.bf16_copy = Some(allocate_zeroed(
            &self.device,
            self.len * DType::Bf16.size_in_bytes(),
        ));
        self
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them.
    pub fn as_view(&self) -> DeviceView<'_> {
        let Self {
            device,
            address,
            len,
            dtype: format,
            bf16_copy: twin,
        } = self;

        DeviceView {
            device,
            address: *address,
            len: *len,
            dtype: *format,
            bf16_copy: *twin,
        }
    }

    /// All of them, to be written.
    pub fn as_view_mut(&mut self) -> DeviceViewMut<'_> {
        DeviceViewMut(self.as_view())
    }

    /// Takes whole numbers into its first places, and lends them.
    pub fn upload_u32(&mut self, numbers: &[u32]) -> DeviceView<'_> {
        assert!(
            self.dtype == DType::U32,
            "whole numbers lie in memory for whole numbers"
        );

        self.upload_prefix(cast_slice(numbers), numbers.len())
    }

    /// Takes bytes into its first places, and lends them.
    pub fn upload_bytes(&mut self, bytes: &[u8]) -> DeviceView<'_> {
        assert!(self.dtype == DType::U8, "bytes lie in memory for bytes");
        self.upload_prefix(bytes, bytes.len())
    }

    fn upload_prefix(&mut self, bytes: &[u8], count: usize) -> DeviceView<'_> {
        let span = self.as_view().slice(0..count);
        self.device
            .run_unless_failed(|driver| driver.copy_to_device(bytes, self.address));
        span
    }
}

fn allocate_zeroed(device: &Device, bytes: usize) -> DeviceAddress {
    let found = device.run_unless_failed(|driver| {
        let at = driver.allocate(bytes.max(1))?;
        driver.memset_zeros(at, bytes)?;
        Ok(at)
    });

    found.unwrap_or_default()
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        for at in [Some(self.address), self.bf16_copy]
            .into_iter()
            .flatten()
            .filter(|at| *at != 0)
        {
            self.device.0.driver.free(at);
        }
    }
}

/// Numbers of a device to be read.
#[derive(Clone, Copy, Debug)]
pub struct DeviceView<'a> {
    device: &'a Device,
    address: DeviceAddress,
    len: usize,
    dtype: DType,
    bf16_copy: Option<DeviceAddress>,
}

impl<'a> DeviceView<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whose they are.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// How they are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where they lie.
    pub fn address(&self) -> DeviceAddress {
        self.address
    }

    /// Some of them.
    pub fn slice(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );

        let at = |address: DeviceAddress, format: DType| {
            address + (range.start * format.size_in_bytes()) as u64
        };
        Self {
            address: at(self.address, self.dtype),
            len: range.len(),
            bf16_copy: self.bf16_copy.map(|twin| at(twin, DType::Bf16)),
            ..self
        }
    }

    /// The first so many.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The same numbers rounded to bfloat16, where they are kept.
    pub fn bf16_copy(self) -> Option<Self> {
        let twin = self.bf16_copy?;
        Some(Self {
            address: twin,
            dtype: DType::Bf16,
            bf16_copy: None,
            ..self
        })
    }

    /// The numbers in this machine's memory, zero after a fault: waits for the device.
    pub fn to_host(self) -> Vec<f32> {
        let mut bytes = vec![0_u8; self.len * self.dtype.size_in_bytes()];
        self.device
            .run_unless_failed(|driver| driver.copy_to_host(self.address, &mut bytes));

        match self.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::Bf16 => {
                let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
                halves
                    .into_iter()
                    .map(|bits| bf16::from_bits(bits).to_f32())
                    .collect()
            }
            DType::U32 => {
                let whole: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
                whole.into_iter().map(|number| number as f32).collect()
            }
            DType::U8 => bytes.into_iter().map(f32::from).collect(),
        }
    }
}

/// Numbers of a device to be written.
#[derive(Debug)]
pub struct DeviceViewMut<'a>(DeviceView<'a>);

impl<'a> DeviceViewMut<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The same numbers, to be read.
    pub fn as_view(&self) -> DeviceView<'_> {
        self.0
    }

    /// Whose they are.
    pub fn device(&self) -> &'a Device {
        self.0.device
    }

    /// The same numbers for a shorter time.
    pub fn reborrow(&mut self) -> DeviceViewMut<'_> {
        DeviceViewMut(self.0)
    }

    /// Some of them.
    pub fn slice(self, range: Range<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// The first so many.
    pub fn first_n(self, count: usize) -> Self {
        self.slice(0..count)
    }

    /// The first so many, and the others.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (
            Self(self.0.slice(0..at)),
            Self(self.0.slice(at..self.0.len)),
        )
    }

    /// Sets every number to zero.
    pub fn fill_zeros(&mut self) {
        let DeviceView {
            device,
            address,
            len,
            dtype: format,
            bf16_copy: twin,
        } = self.0;

        device
            .run_unless_failed(|driver| driver.memset_zeros(address, len * format.size_in_bytes()));
        if let Some(twin) = twin {
            device.run_unless_failed(|driver| {
                driver.memset_zeros(twin, len * DType::Bf16.size_in_bytes())
            });
        }
    }

    /// Takes numbers from this machine's memory.
    pub fn copy_from_host(&mut self, values: &[f32]) {
        assert_eq!(
            self.0.len,
            values.len(),
            "copies are as long as what they are of"
        );

        let DeviceView {
            device,
            address,
            dtype: format,
            bf16_copy: twin,
            ..
        } = self.0;

        let rounded = || {
            let mut halves = vec![bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            halves
                .iter()
                .map(|half| half.to_bits())
                .collect::<Vec<u16>>()
        };

        match format {
            DType::F32 => device
                .run_unless_failed(|driver| driver.copy_to_device(cast_slice(values), address)),
            DType::Bf16 => device
                .run_unless_failed(|driver| driver.copy_to_device(cast_slice(&rounded()), address)),
            DType::U32 | DType::U8 => panic_not_float(),
        };

        if let Some(twin) = twin {
            device.run_unless_failed(|driver| driver.copy_to_device(cast_slice(&rounded()), twin));
        }
    }

    /// Takes numbers of the same device, in the same format.
    pub fn copy_from(&mut self, from: DeviceView<'_>) {
        assert_eq!(
            self.0.len, from.len,
            "copies are as long as what they are of"
        );

        if self.0.dtype != from.dtype || self.0.bf16_copy.is_some() {
            return super::convert::convert_dtype(from, self.reborrow());
        }

        let DeviceView {
            device,
            address,
            len,
            dtype: format,
            ..
        } = self.0;

        device.run_unless_failed(|driver| {
            driver.copy_on_device(from.address, address, len * format.size_in_bytes())
        });
    }
}

#[expect(clippy::panic, reason = "a fault of ours")]
fn panic_not_float() -> ! {
    panic!("numbers of a model are not whole")
}

//! Memory of a device, and borrowed parts of it.

use std::ops::Range;

use bytemuck::cast_slice;
use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::{Address, Device};

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32 bits, of which 8 are the exponent's.
    F32,
    /// The upper 16 bits of those.
    Bf16,
    /// A whole number of 32 bits.
    U32,
    /// A byte.
    U8,
}

impl Format {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }
}

/// Memory of a device for so many numbers; given back when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    address: Address,
    len: usize,
    format: Format,
    /// The same numbers, rounded to bfloat16.
    twin: Option<Address>,
}

impl Buffer {
    /// Numbers that are zero. Without enough memory there is a fault, and nothing is done any more.
    pub fn new(device: &Device, len: usize, format: Format) -> Self {
        let address = allocate(device, len * format.bytes());
        Self {
            device: device.clone(),
            address,
            len,
            format,
            twin: None,
        }
    }

    /// The same with its numbers a second time, rounded to bfloat16.
    pub fn with_twin(mut self) -> Self {
        self.twin = Some(allocate(&self.device, self.len * Format::Bf16.bytes()));
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
    pub fn span(&self) -> Span<'_> {
        let Self {
            device,
            address,
            len,
            format,
            twin,
        } = self;

        Span {
            device,
            address: *address,
            len: *len,
            format: *format,
            twin: *twin,
        }
    }

    /// All of them, to be written.
    pub fn span_mut(&mut self) -> SpanMut<'_> {
        SpanMut(self.span())
    }

    /// Takes whole numbers into its first places, and lends them.
    pub fn take_whole(&mut self, numbers: &[u32]) -> Span<'_> {
        assert!(
            self.format == Format::U32,
            "whole numbers lie in memory for whole numbers"
        );

        self.take(cast_slice(numbers), numbers.len())
    }

    /// Takes bytes into its first places, and lends them.
    pub fn take_bytes(&mut self, bytes: &[u8]) -> Span<'_> {
        assert!(self.format == Format::U8, "bytes lie in memory for bytes");
        self.take(bytes, bytes.len())
    }

    fn take(&mut self, bytes: &[u8], count: usize) -> Span<'_> {
        let span = self.span().part(0..count);
        self.device.run(|driver| driver.upload(bytes, self.address));
        span
    }
}

fn allocate(device: &Device, bytes: usize) -> Address {
    let found = device.run(|driver| {
        let at = driver.allocate(bytes.max(1))?;
        driver.clear(at, bytes)?;
        Ok(at)
    });

    found.unwrap_or_default()
}

impl Drop for Buffer {
    fn drop(&mut self) {
        for at in [Some(self.address), self.twin]
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
pub struct Span<'a> {
    device: &'a Device,
    address: Address,
    len: usize,
    format: Format,
    twin: Option<Address>,
}

impl<'a> Span<'a> {
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
    pub fn format(&self) -> Format {
        self.format
    }

    /// Where they lie.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Some of them.
    pub fn part(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );

        let at = |address: Address, format: Format| address + (range.start * format.bytes()) as u64;
        Self {
            address: at(self.address, self.format),
            len: range.len(),
            twin: self.twin.map(|twin| at(twin, Format::Bf16)),
            ..self
        }
    }

    /// The first so many.
    pub fn first(self, count: usize) -> Self {
        self.part(0..count)
    }

    /// The same numbers rounded to bfloat16, where they are kept.
    pub fn rounded(self) -> Option<Self> {
        let twin = self.twin?;
        Some(Self {
            address: twin,
            format: Format::Bf16,
            twin: None,
            ..self
        })
    }

    /// The numbers in this machine's memory, zero after a fault: waits for the device.
    pub fn download(self) -> Vec<f32> {
        let mut bytes = vec![0_u8; self.len * self.format.bytes()];
        self.device
            .run(|driver| driver.download(self.address, &mut bytes));

        match self.format {
            Format::F32 => bytemuck::pod_collect_to_vec(&bytes),
            Format::Bf16 => {
                let halves: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
                halves
                    .into_iter()
                    .map(|bits| bf16::from_bits(bits).to_f32())
                    .collect()
            }
            Format::U32 => {
                let whole: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
                whole.into_iter().map(|number| number as f32).collect()
            }
            Format::U8 => bytes.into_iter().map(f32::from).collect(),
        }
    }
}

/// Numbers of a device to be written.
#[derive(Debug)]
pub struct SpanMut<'a>(Span<'a>);

impl<'a> SpanMut<'a> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The same numbers, to be read.
    pub fn span(&self) -> Span<'_> {
        self.0
    }

    /// Whose they are.
    pub fn device(&self) -> &'a Device {
        self.0.device
    }

    /// The same numbers for a shorter time.
    pub fn reborrow(&mut self) -> SpanMut<'_> {
        SpanMut(self.0)
    }

    /// Some of them.
    pub fn part(self, range: Range<usize>) -> Self {
        Self(self.0.part(range))
    }

    /// The first so many.
    pub fn first(self, count: usize) -> Self {
        self.part(0..count)
    }

    /// The first so many, and the others.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        (Self(self.0.part(0..at)), Self(self.0.part(at..self.0.len)))
    }

    /// Sets every number to zero.
    pub fn clear(&mut self) {
        let Span {
            device,
            address,
            len,
            format,
            twin,
        } = self.0;

        device.run(|driver| driver.clear(address, len * format.bytes()));
        if let Some(twin) = twin {
            device.run(|driver| driver.clear(twin, len * Format::Bf16.bytes()));
        }
    }

    /// Takes numbers from this machine's memory.
    pub fn upload(&mut self, values: &[f32]) {
        assert_eq!(
            self.0.len,
            values.len(),
            "copies are as long as what they are of"
        );

        let Span {
            device,
            address,
            format,
            twin,
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
            Format::F32 => device.run(|driver| driver.upload(cast_slice(values), address)),
            Format::Bf16 => device.run(|driver| driver.upload(cast_slice(&rounded()), address)),
            Format::U32 | Format::U8 => unreachable_format(),
        };

        if let Some(twin) = twin {
            device.run(|driver| driver.upload(cast_slice(&rounded()), twin));
        }
    }

    /// Takes numbers of the same device, in the same format.
    pub fn copy_from(&mut self, from: Span<'_>) {
        assert_eq!(
            self.0.len, from.len,
            "copies are as long as what they are of"
        );

        if self.0.format != from.format || self.0.twin.is_some() {
            return super::convert::convert(from, self.reborrow());
        }

        let Span {
            device,
            address,
            len,
            format,
            ..
        } = self.0;

        device.run(|driver| driver.copy(from.address, address, len * format.bytes()));
    }
}

#[expect(clippy::panic, reason = "a fault of ours")]
fn unreachable_format() -> ! {
    panic!("numbers of a model are not whole")
}

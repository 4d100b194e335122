//! The same arrays on the CPU and on the device, for operations that are run on both.

use cnclip_compute::device::{DType, DeviceBuffer};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patch_dropout::PatchDropout;
use cnclip_compute::ops::sequences::{DeviceSequenceView, Pooling, Sequences};
use cnclip_compute::tensor::{IndexView, Memory, Tensor, TensorView, TensorViewMut};

use crate::device_under_test::{
    assert_device_close, device_memory, uniform_values, upload_indices,
};

/// Where an operation is run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Side {
    Host,
    Device,
}

/// The CPU, then the device.
pub(crate) const SIDES: [Side; 2] = [Side::Host, Side::Device];

/// The same random numbers in both memories.
pub(crate) struct HostAndDevice {
    host: Tensor,
    device: Tensor,
    dtype: DType,
}

impl HostAndDevice {
    /// Activations.
    pub(crate) fn activations(len: usize, seed: u64, dtype: DType) -> Self {
        let values = uniform_values(len, seed, dtype);
        Self::new(values, device_memory(dtype).alloc_activations(len), dtype)
    }

    /// Numbers that are fp32 in any format; they are compared as numbers of that format.
    pub(crate) fn f32s(len: usize, seed: u64, dtype: DType) -> Self {
        let values = uniform_values(len, seed, DType::F32);
        Self::new(values, device_memory(dtype).alloc_f32(len), dtype)
    }

    /// Weights.
    pub(crate) fn weights(len: usize, seed: u64, dtype: DType) -> Self {
        let values = uniform_values(len, seed, DType::F32);
        Self::new(values, device_memory(dtype).alloc_weights(len), dtype)
    }

    fn new(values: Vec<f32>, mut device: Tensor, dtype: DType) -> Self {
        device.copy_from(TensorView::Host(&values));
        let mut host = Memory::Host.alloc_activations(values.len());
        host.copy_from(TensorView::Host(&values));
        Self {
            host,
            device,
            dtype,
        }
    }

    pub(crate) fn view(&self, side: Side) -> TensorView<'_> {
        match side {
            Side::Host => self.host.view(),
            Side::Device => self.device.view(),
        }
    }

    pub(crate) fn view_mut(&mut self, side: Side) -> TensorViewMut<'_> {
        match side {
            Side::Host => self.host.view_mut(),
            Side::Device => self.device.view_mut(),
        }
    }

    /// Fails unless both are as close as so many roundings to bfloat16 allow.
    pub(crate) fn assert_agree(&self, what: &str, roundings: f32) {
        let Tensor::Device(device) = &self.device else {
            panic!("it is on a device")
        };

        assert_device_close(what, device, &self.host.to_host(), self.dtype, roundings);
    }

    /// The numbers on the device.
    pub(crate) fn device_values(&self) -> Vec<f32> {
        self.device.to_host().into_owned()
    }

    /// The numbers on the CPU.
    pub(crate) fn host_values(&self) -> Vec<f32> {
        self.host.to_host().into_owned()
    }
}

/// The same indices in both memories.
pub(crate) struct Indices {
    pub(crate) host: Vec<u32>,
    pub(crate) device: DeviceBuffer,
}

impl Indices {
    pub(crate) fn new(host: Vec<u32>) -> Self {
        let device = upload_indices(&host);
        Self { host, device }
    }

    pub(crate) fn view(&self, side: Side) -> IndexView<'_> {
        let on_device = (side == Side::Device).then(|| self.device.as_view());
        IndexView::from(self.host.as_slice()).with_device_view(on_device)
    }
}

/// Sequences and their tokens' ids in both memories.
pub(crate) struct TestSequences {
    offsets: Vec<usize>,
    device_offsets: Indices,
    pub(crate) ids: Indices,
    padded: bool,
}

impl TestSequences {
    pub(crate) fn new(lengths: &[usize], padded: bool) -> Self {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });

        let offsets: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let tokens = offsets[lengths.len()] as u32;
        let id = |i| {
            if padded && i % 3 == 1 {
                0
            } else {
                1 + i * i % 7
            }
        };

        Self {
            device_offsets: Indices::new(offsets.iter().map(|&at| at as u32).collect()),
            ids: Indices::new((0..tokens).map(id).collect()),
            offsets,
            padded,
        }
    }

    pub(crate) fn on(&self, side: Side, pooling: Pooling) -> Sequences<'_> {
        let sequences = Sequences::new(&self.offsets).with_pooling(pooling);
        let sequences = if self.padded {
            sequences.with_padding(&self.ids.host)
        } else {
            sequences
        };

        match side {
            Side::Host => sequences,
            Side::Device => sequences.with_device(DeviceSequenceView {
                offsets: self.device_offsets.device.as_view(),
                token_ids: self.padded.then(|| self.ids.device.as_view()),
            }),
        }
    }
}

/// Of different lengths, with and without padding; of one length; more and fewer than heads.
pub(crate) fn test_sequences() -> Vec<TestSequences> {
    vec![
        TestSequences::new(&[5, 1, 37, 2, 70, 11], false),
        TestSequences::new(&[5, 1, 37, 2, 11], true),
        TestSequences::new(&[33; 5], true),
        TestSequences::new(&[17; 7], false),
        TestSequences::new(&[50; 2], false),
        TestSequences::new(&[9], false),
    ]
}

/// Both ways of pooling.
pub(crate) const POOLINGS: [Pooling; 2] = [Pooling::AllTokens, Pooling::FirstToken];

/// Without dropout and with it.
pub(crate) fn test_dropouts() -> [Dropout; 2] {
    [Dropout::NONE, Dropout::new(1, 2, 3).at_site(4, 0.3)]
}

/// The patches of each image that are left where a share of them is masked.
pub(crate) fn visible_patches(
    batch: usize,
    patches_per_image: usize,
    masked_percent: u32,
) -> Indices {
    let mut patches = PatchDropout::new(batch, patches_per_image);
    patches.set_masked_percent(masked_percent);
    Indices::new(
        patches
            .sample_patches(batch, Dropout::new(1, 2, 3))
            .to_vec(),
    )
}

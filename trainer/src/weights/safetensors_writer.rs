//! A model's tensors as the bytes of a safetensors file, under the reference's names.

use std::borrow::Cow;

use safetensors::tensor::{Dtype, View, serialize};

use cnclip_compute::params::Params;
use cnclip_compute::tensor;

/// A tensor on its way into a file.
pub(super) struct OutgoingTensor<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) shape: &'a [usize],
    pub(super) values: tensor::TensorView<'a>,
}

impl OutgoingTensor<'_> {
    /// PyTorch's batch norm counts batches in an i64 buffer, and a state dict with another type does not load.
    fn is_batch_counter(&self) -> bool {
        self.name.ends_with("num_batches_tracked")
    }
}

impl View for &OutgoingTensor<'_> {
    fn dtype(&self) -> Dtype {
        if self.is_batch_counter() {
            Dtype::I64
        } else {
            Dtype::F32
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The library asks for one tensor after another, so host memory holds the file and at most a copy of one
        // tensor, never a second model.
        let values = self.values.to_host();
        if self.is_batch_counter() {
            let counts = values.iter().map(|&value| value as i64);
            return Cow::Owned(counts.flat_map(i64::to_le_bytes).collect());
        }

        match values {
            Cow::Borrowed(values) => Cow::Borrowed(as_le_bytes(values)),
            Cow::Owned(values) => Cow::Owned(as_le_bytes(&values).to_vec()),
        }
    }

    fn data_len(&self) -> usize {
        self.values.len() * if self.is_batch_counter() { 8 } else { 4 }
    }
}

/// Numbers as a file has them, without a copy: training waits while a model is serialized.
fn as_le_bytes(values: &[f32]) -> &[u8] {
    const {
        assert!(
            cfg!(target_endian = "little"),
            "safetensors are little-endian"
        )
    };
    bytemuck::cast_slice(values)
}

/// A model as safetensors.
pub fn write_safetensors(params: &Params) -> Vec<u8> {
    serialize_tensors(
        params
            .named_tensors()
            .map(|(segment, values)| OutgoingTensor {
                name: Cow::Borrowed(&segment.name),
                shape: &segment.shape,
                values,
            }),
    )
}

#[expect(clippy::expect_used, reason = "shapes and lengths come from one table")]
pub(super) fn serialize_tensors<'a>(tensors: impl Iterator<Item = OutgoingTensor<'a>>) -> Vec<u8> {
    let tensors: Vec<OutgoingTensor<'a>> = tensors.collect();
    let named = tensors.iter().map(|tensor| (&*tensor.name, tensor));
    serialize(named, None).expect("tensors of matching sizes")
}

//! Weights by name: from the files that others publish into a model, and back. Decides which names
//! must be there; values stay in their file until they are copied to where they belong.

mod file;
mod header;
mod layout;
mod load;
mod moments;
mod names;
mod number;
mod pickle;
mod positions;
mod pytorch;
mod sharded;
mod stored;
mod towers;
mod write;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use file::Trained;
pub use layout::{Layout, grouped};
pub use load::{Part, WeightsError, left_out, load};
pub use moments::{load_moments, write_moments};
pub use stored::Stored;
pub use towers::Towers;
pub use write::write_safetensors;

use crate::error::Result;
use cnclip_data::store::Store;
use names::Named;
pub use sharded::{INDEX_ENDING, shards};

/// A tensor read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape; `[]` for a scalar.
    pub shape: Vec<usize>,
    /// Its values, in rows.
    pub values: Vec<f32>,
}

/// Tensors read from a file, under the names of the reference's state dict.
pub type Tensors = BTreeMap<String, Tensor>;

/// The tensors that lie in a file, under the names of the reference's state dict. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Weights {
    layout: Layout,
    tensors: BTreeMap<String, Stored>,
    left_out: Vec<String>,
    trained: Trained,
}

impl Weights {
    /// The tensors of an object: safetensors or a file of PyTorch, in any layout that we know, or an
    /// index of several such objects beside it.
    ///
    /// # Errors
    /// If there is no such object, or it is of no kind that we read.
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        let listing = match name.ends_with(INDEX_ENDING) {
            true => sharded::list(store, name)?.into(),
            false => file::list(store, name)?,
        };

        let Named {
            layout,
            tensors,
            left_out,
        } = names::to_reference(listing.tensors);

        Ok(Self {
            layout,
            tensors,
            left_out,
            trained: listing.trained,
        })
    }

    /// The tensors of safetensors in memory.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        const NAME: &str = "bytes.safetensors";
        let store = Store::memory();
        store.put(NAME, bytes.into())?;
        Self::open(&store, NAME)
    }

    /// Whose names they had.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// How long they were trained, as far as their file says it.
    pub fn trained(&self) -> Trained {
        self.trained
    }

    /// Tensors of the file that no model of ours has, under its own names: poolers, heads, the text
    /// tower of another language.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    /// What the tensors are called, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// All values in memory of their own: for files that are small.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn to_tensors(&self) -> Result<Tensors> {
        let read = |(name, stored): (&String, &Stored)| Ok((name.clone(), stored.to_tensor()?));
        self.tensors.iter().map(read).collect()
    }
}

/// Reads small safetensors, in the layout of the reference or of Hugging Face.
///
/// # Errors
/// Bytes that are no safetensors of numbers.
pub fn read_safetensors(bytes: &[u8]) -> Result<Tensors> {
    Weights::from_bytes(bytes.to_vec())?.to_tensors()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::write::Outgoing;
    use super::*;

    /// A tensor of the numbers from `first` on.
    pub(super) fn tensor(shape: &[usize], first: f32) -> Tensor {
        let count = shape.iter().product::<usize>();
        Tensor {
            shape: shape.to_vec(),
            values: (0..count).map(|i| first + i as f32).collect(),
        }
    }

    /// A file that holds these.
    pub(super) fn file(tensors: &[(&str, Tensor)]) -> Weights {
        let tensors = tensors.iter().map(|(name, tensor)| Outgoing {
            name: Cow::Borrowed(*name),
            shape: &tensor.shape,
            values: cnclip_compute::tensor::View::Host(&tensor.values),
        });

        Weights::from_bytes(write::bytes(tensors)).unwrap()
    }
}

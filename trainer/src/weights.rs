//! Weights by name: from published weight files into a model, and back. Values stay in their file until
//! they are copied into the model's memory, so that no model is held twice.

mod dtype_convert;
mod expected_content;
mod load;
mod moments;
mod name_mapping;
mod pickle;
mod position_embedding;
mod pytorch;
mod safetensors_header;
mod safetensors_writer;
mod sharded;
mod state_dict_format;
mod stored_tensor;
mod tensor_file;
mod tensor_reader;
mod tower_detection;

use std::collections::BTreeMap;

use bytes::Bytes;
use rayon::prelude::*;

pub use expected_content::ExpectedContent;
pub use load::{ModelPart, WeightsError, load_weights, summarize_ignored};
pub use moments::{load_moments, write_moments};
pub use safetensors_writer::write_safetensors;
pub use state_dict_format::{StateDictFormat, summarize_names};
pub use stored_tensor::StoredTensor;
pub use tensor_file::RecordedProgress;
pub use tower_detection::DetectedTowers;

use crate::error::Result;
use cnclip_data::store::Store;
use name_mapping::ReferenceTensors;
pub use sharded::{INDEX_SUFFIX, list_shard_files};
use tensor_file::TensorListing;
use tensor_reader::{ReadingPlace, TensorReader};

/// A tensor read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape; `[]` for a scalar.
    pub shape: Vec<usize>,
    /// Its values, in rows.
    pub values: Vec<f32>,
}

/// Tensors read from a file, under the names of the reference's state dict.
pub type TensorMap = BTreeMap<String, Tensor>;

/// The tensors that lie in a file, under the names of the reference's state dict. Cloning is cheap.
///
/// # Examples
/// ```
/// use cnclip::weights::{ModelPart, Weights, load_weights, write_safetensors};
/// use cnclip_compute::params::{ParamInit, ParamLayout};
///
/// let mut layout = ParamLayout::default();
/// layout.register_weight("visual.proj", &[2, 3], ParamInit::Ones);
/// let mut params = layout.allocate_params();
/// params.init_values(1);
///
/// let weights = Weights::from_bytes(write_safetensors(&params)).unwrap();
/// assert_eq!(weights.tensor_names().collect::<Vec<_>>(), ["visual.proj"]);
/// assert_eq!(weights.get("visual.proj").unwrap().shape(), [2, 3]);
/// load_weights(&mut params, &weights, ModelPart::All).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Weights {
    format: StateDictFormat,
    tensors: BTreeMap<String, StoredTensor>,
    ignored: Vec<String>,
    recorded_progress: RecordedProgress,
}

impl Weights {
    /// The tensors of an object: safetensors or a file of PyTorch, in any layout that we know, or an
    /// index of several such objects in the same folder.
    ///
    /// # Errors
    /// If there is no such object, or it is of no kind that we read.
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        let listing = match name.ends_with(INDEX_SUFFIX) {
            true => sharded::list_sharded_tensors(store, name)?.into(),
            false => tensor_file::list_tensors(store, name, None)?,
        };

        Ok(Self::from_listing(listing))
    }

    /// As [`Weights::open`], for a file whose content is known: it is proven while its tensors are loaded, and a load
    /// of a file that holds anything else fails.
    ///
    /// # Errors
    /// As [`Weights::open`]; if the file is gone or has another size.
    pub fn open_expected(store: &Store, name: &str, expected: ExpectedContent) -> Result<Self> {
        let listing = tensor_file::list_tensors(store, name, Some(expected))?;
        Ok(Self::from_listing(listing))
    }

    fn from_listing(listing: TensorListing) -> Self {
        let ReferenceTensors {
            format,
            tensors,
            ignored,
        } = name_mapping::to_reference_names(listing.tensors);

        Self {
            format,
            tensors,
            ignored,
            recorded_progress: listing.recorded_progress,
        }
    }

    /// The tensors of safetensors in memory.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        const NAME: &str = "bytes.safetensors";
        let store = Store::in_memory();
        store.put(NAME, bytes.into())?;
        Self::open(&store, NAME)
    }

    /// Whose names they had.
    pub fn format(&self) -> StateDictFormat {
        self.format
    }

    /// How long they were trained, as far as their file says it.
    pub fn recorded_progress(&self) -> RecordedProgress {
        self.recorded_progress
    }

    /// Tensors of the file that no model of ours has, under its own names: poolers, heads, the text
    /// tower of another language.
    pub fn ignored_names(&self) -> impl Iterator<Item = &str> {
        self.ignored.iter().map(String::as_str)
    }

    /// What the tensors are called, in order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// All values in memory of their own: for files that are small.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what it must be.
    pub fn to_tensors(&self) -> Result<TensorMap> {
        let mut reader = plan_reader(self.tensors.values())?;
        let mut named: Vec<(&String, &StoredTensor)> = self.tensors.iter().collect();
        sort_by_place(&mut named, &reader, |(_, stored)| stored)?;
        let read = named
            .into_iter()
            .map(|(name, stored)| Ok((name.clone(), stored.to_tensor(&mut reader)?)));

        let tensors = read.collect::<Result<_>>()?;
        reader.finish()?;
        Ok(tensors)
    }
}

/// A reader of these tensors.
///
/// # Errors
/// If an entry of an archive is not there, or is compressed.
fn plan_reader<'a>(tensors: impl Iterator<Item = &'a StoredTensor>) -> Result<TensorReader> {
    let tensors: Vec<&StoredTensor> = tensors.collect();
    // In parallel: in an archive each extent costs a request.
    let extents = tensors.par_iter().map(|tensor| tensor.extents());
    let extents: Vec<Vec<_>> = extents.collect::<Result<_>>()?;
    Ok(TensorReader::plan(extents.concat()))
}

/// Sorts what is read from tensors by where these lie.
///
/// # Errors
/// If an entry of an archive is not there, or is compressed.
fn sort_by_place<T>(
    items: &mut Vec<T>,
    reader: &TensorReader,
    tensor_of: impl Fn(&T) -> &StoredTensor,
) -> Result<()> {
    let placed = items.drain(..).map(|item| {
        let place = reader.place_of(&tensor_of(&item).extents()?);
        Ok((place, item))
    });

    let mut placed: Vec<(ReadingPlace, T)> = placed.collect::<Result<_>>()?;
    placed.sort_by_key(|(place, _)| *place);
    items.extend(placed.into_iter().map(|(_, item)| item));
    Ok(())
}

/// Reads small safetensors, in the layout of the reference or of Hugging Face.
///
/// # Errors
/// Bytes that are no safetensors of numbers.
pub fn read_safetensors(bytes: &[u8]) -> Result<TensorMap> {
    Weights::from_bytes(bytes.to_vec())?.to_tensors()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::safetensors_writer::OutgoingTensor;
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
        let tensors = tensors.iter().map(|(name, tensor)| OutgoingTensor {
            name: Cow::Borrowed(*name),
            shape: &tensor.shape,
            values: cnclip_compute::tensor::TensorView::Host(&tensor.values),
        });

        Weights::from_bytes(safetensors_writer::serialize_tensors(tensors)).unwrap()
    }
}

//! The checkpoint of the reference: what `torch.save` makes of `{epoch, step, name, state_dict}`, a
//! zip of one pickle and a file for each tensor's numbers. Holds no more than one block of them twice.

use std::io::{self, Seek, Write};
use std::path::Path;

use cnclip_crds::model::{Architecture, ModelConfig};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::pickle::{PickleWriter, TensorStorage};
use crate::error::{Error, Result};
use crate::interop::atomic_file;
use cnclip_compute::params::{Params, Segment};

/// The folder in the zip: any name does.
const ARCHIVE_FOLDER: &str = "archive";
/// Numbers lie in the file so that they can be mapped into memory.
const ALIGNMENT: u16 = 64;
/// Numbers that are turned into bytes at once.
const BLOCK_VALUES: usize = 1 << 18;

/// What the published file of these towers is called; another model's is nobody's.
pub(super) fn checkpoint_name(model: &ModelConfig) -> String {
    use Architecture::*;
    let published = [
        (Rn50, "rn50"),
        (VitB16, "vit-b-16"),
        (VitL14, "vit-l-14"),
        (VitL14At336, "vit-l-14-336"),
        (VitH14, "vit-h-14"),
    ];

    let own = published
        .iter()
        .find(|(preset, _)| preset.published_model().as_ref() == Some(model));

    own.map_or_else(
        || "clip_cn".to_owned(),
        |(_, name)| format!("clip_cn_{name}"),
    )
}

/// Writes `<name>.pt`.
pub(super) fn write_checkpoint(params: &Params, name: &str, to: &Path) -> Result<Vec<String>> {
    let file = format!("{name}.pt");
    let path = to.join(&file);
    atomic_file::write_atomically(&path, |writer| {
        write_archive(params, name, writer).map_err(Error::io_context("write", &path))
    })?;

    Ok(vec![file])
}

fn write_archive(params: &Params, name: &str, writer: impl Write + Seek) -> io::Result<()> {
    let mut zip = ZipWriter::new(writer);
    let mut add = |name: &str, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>| {
        // `torch.load` can map storages at their offset in the file, so they are not compressed.
        // ZIP64, because one may exceed 4 GiB and its size is unknown when its header is written.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(true);

        let name = format!("{ARCHIVE_FOLDER}/{name}");
        zip.start_file(name, options)?;
        write(&mut zip)
    };

    let pickle = build_pickle(params, name);
    add("data.pkl", &mut |file| file.write_all(&pickle))?;
    add("byteorder", &mut |file| file.write_all(b"little"))?;

    for (number, (segment, values)) in params.named_tensors().enumerate() {
        let name = format!("data/{number}");
        let storage = storage_type(segment);
        add(&name, &mut |file| {
            write_storage(storage, &values.to_host(), file)
        })?;
    }

    add("version", &mut |file| file.write_all(b"3\n"))?;
    zip.finish()?.flush()
}

fn build_pickle(params: &Params, name: &str) -> Vec<u8> {
    let mut pickle = PickleWriter::new();
    // The keys that the reference resumes from; epoch and step are 0, so that training starts anew.
    pickle.push_dict(|pickle| {
        pickle
            .push_text("epoch")
            .push_int(0)
            .push_text("step")
            .push_int(0)
            .push_text("name")
            .push_text(name);

        pickle.push_text("state_dict").push_ordered_dict(|pickle| {
            for (number, (segment, _)) in params.named_tensors().enumerate() {
                // The reference trains behind DistributedDataParallel, and its loader expects that.
                pickle.push_text(&format!("module.{}", segment.name));
                pickle.push_tensor(storage_type(segment), number, &segment.shape);
            }
        });
    });

    pickle.finish()
}

/// PyTorch counts batches in integers.
fn storage_type(segment: &Segment) -> TensorStorage {
    match segment.name.ends_with("num_batches_tracked") {
        true => TensorStorage::Long,
        false => TensorStorage::Float,
    }
}

fn write_storage(storage: TensorStorage, values: &[f32], file: &mut dyn Write) -> io::Result<()> {
    let bytes = |values: &[f32]| -> Vec<u8> {
        match storage {
            TensorStorage::Float => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            TensorStorage::Long => values
                .iter()
                .flat_map(|&v| (v as i64).to_le_bytes())
                .collect(),
        }
    };

    values
        .chunks(BLOCK_VALUES)
        .try_for_each(|block| file.write_all(&bytes(block)))
}

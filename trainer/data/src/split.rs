//! A data set that an evaluation names: shards, or a split in a foreign format, of which shards are made on
//! this machine.
//!
//! ```text
//! <folder>/<split>/index.json                                     shards, read where they are
//! <folder>/<split>_imgs.tsv and <folder>/<split>_texts.jsonl      files
//! <folder>/lmdb/<split>/{imgs,pairs}/data.mdb                     databases; texts are those of the file, if
//!                                                                 there is one, which has those of no image
//! ```

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::prepare::{self, PrepareOptions, PrepareProgress, PreparedDataset};
use crate::readers::{SplitFiles, SplitLocation};
use crate::shard::{Dataset, INDEX_FILE};
use crate::store::Store;

/// The data set at a URI or path: shards that are there, or those of a split, `<folder>/<split>` or
/// `<folder>/lmdb/<split>`, which stay on this machine as long as a clone of the data set lives.
///
/// # Errors
/// If there is neither, or it cannot be used; messages name files by where they are, not by their copies.
///
/// # Guarantees
/// A split is the data set that `cnclip prepare` makes of the same files, with the same digest.
pub fn open_dataset(uri: &str, options: &PrepareOptions) -> Result<Dataset> {
    let store = Store::open(uri)?;
    if store.object_size(INDEX_FILE)?.is_some() {
        return Dataset::new(store);
    }

    let Some(location) = SplitLocation::from_uri(uri)? else {
        // The error of the missing index says what to do.
        return Dataset::new(store);
    };

    match location.find_files()? {
        Some(files) => build_shards(uri, &location.root, &files, options),
        None => Err(missing_split_error(uri, &location)),
    }
}

fn missing_split_error(uri: &str, location: &SplitLocation) -> Error {
    let [images, databases] = location.expected_uris();
    Error::Config(format!(
        "{uri} holds no {INDEX_FILE}, and there is neither {images} nor {databases} to make shards of. If it \
         holds WebDataset shards, make an index with `cnclip prepare --shards {uri}`; else correct the address."
    ))
}

/// Copies the files of a split to this machine, makes shards of them and drops the copies.
fn build_shards(
    uri: &str,
    root: &Store,
    files: &SplitFiles,
    options: &PrepareOptions,
) -> Result<Dataset> {
    let temporary = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(Error::file("create a folder in", temporary))?;

    let copies = folder.path().join("files");
    let shards = folder.path().join("shards");

    // Readers seek, and LMDB maps its file into memory: neither works on an object store.
    for name in &files.names {
        tracing::info!("Copying {}", root.object_uri(name));
        root.download_to(name, &copies.join(name))?;
    }

    let shards = shards.display().to_string();
    let output = Store::open(&shards)?;

    let prepared = prepare_copies(root, files, &copies, &output, options)?;
    prepared.log_summary(&format!("Shards made of {uri}"));
    // Now and not with the folder of shards: both together would take twice the disk of the node.
    fs::remove_dir_all(&copies).map_err(Error::file("remove", &copies))?;

    let dataset = Dataset::new(output.with_display_uri(uri))?;
    Ok(dataset.with_temp_dir(folder))
}

/// Makes shards of the copies; names the files by their URIs in what it reports, as the copies are gone when
/// somebody reads it.
fn prepare_copies(
    root: &Store,
    files: &SplitFiles,
    copies: &Path,
    output: &Store,
    options: &PrepareOptions,
) -> Result<PreparedDataset> {
    let prepared = (files.open)(copies)
        .and_then(|reader| prepare::prepare_dataset(reader, output, options, log_progress));

    let copy_prefix = format!("{}/", copies.display());
    let uri_prefix = format!("{}/", root.uri());
    let with_uris = |text: &str| text.replace(&copy_prefix, &uri_prefix);
    match prepared {
        Ok(mut prepared) => {
            prepared.skipped.examples.map(with_uris);
            Ok(prepared)
        }
        Err(Error::Data(message)) => Err(Error::Data(with_uris(&message))),
        Err(other) => Err(other),
    }
}

/// Ten lines in the log, however many images there are.
fn log_progress(PrepareProgress { done, total, .. }: PrepareProgress) {
    if done * 10 / total > (done - 1) * 10 / total {
        tracing::info!(done, total, "Making shards");
    }
}

#[cfg(test)]
mod tests;

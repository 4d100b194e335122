//! A data set that an evaluation names: shards, or a split in the reference's layout, of which shards are
//! made on this machine. Decides which files a split has; [`prepare`] decides what becomes of them.
//!
//! ```text
//! <folder>/<split>/index.json                                     shards, read where they are
//! <folder>/<split>_imgs.tsv and <folder>/<split>_texts.jsonl      files
//! <folder>/lmdb/<split>/{imgs,pairs}/data.mdb                     databases; texts are those of the file, if
//!                                                                 there is one, which has those of no image
//! ```

use std::fs;
use std::path::Path;

use super::prepare::{self, PrepareOptions, PrepareProgress, PreparedDataset};
use super::shard::{Dataset, INDEX_FILE};
use crate::error::{Error, Result};
use crate::store::Store;

/// The file of a database.
const LMDB_DATA_FILE: &str = "data.mdb";

/// The data set at a URI or path: shards that are there, or those of a split, `<folder>/<split>` or
/// `<folder>/lmdb/<split>`, which lie on this machine as long as anybody has them.
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

    match locate_split(uri) {
        Some(place) => DatasetSplit::find_files(uri, place)?.build_shards(uri, options),
        None => Dataset::new(store),
    }
}

/// The files of a split, all below one place.
struct DatasetSplit {
    root: Store,
    files: SplitFiles,
}

/// What they are called from there.
enum SplitFiles {
    TsvJsonl {
        images: String,
        texts: String,
    },
    Lmdb {
        folder: String,
        texts: Option<String>,
    },
}

/// Where a split is looked for: the place that its files are below, what the URI is from there, and what
/// the split is called.
fn locate_split(uri: &str) -> Option<(&str, String, &str)> {
    let uri = uri.trim_end_matches('/');
    let (parent, split) = uri.rsplit_once('/').unwrap_or((".", uri));
    let (above, folder) = parent.rsplit_once('/').unwrap_or((".", parent));
    // What is left of `s3://bucket` and of `/folder` names no place.
    let is_place = |place: &str| !place.is_empty() && !place.ends_with('/');

    match folder {
        "lmdb" if is_place(above) => Some((above, format!("lmdb/{split}"), split)),
        _ => is_place(parent).then(|| (parent, split.to_owned(), split)),
    }
}

impl DatasetSplit {
    /// The split that a URI names.
    fn find_files(uri: &str, (root, folder, split): (&str, String, &str)) -> Result<Self> {
        let root = Store::open(root)?;
        let there = |name: &str| root.object_size(name).map(|size| size.is_some());
        let images = format!("{split}_imgs.tsv");
        let texts = format!("{split}_texts.jsonl");
        let beside = format!("lmdb/{split}");
        let files = if there(&format!("{folder}/imgs/{LMDB_DATA_FILE}"))? {
            SplitFiles::Lmdb {
                folder,
                texts: there(&texts)?.then_some(texts),
            }
        } else if there(&images)? {
            SplitFiles::TsvJsonl { images, texts }
        } else if there(&format!("{beside}/imgs/{LMDB_DATA_FILE}"))? {
            SplitFiles::Lmdb {
                folder: beside,
                texts: there(&texts)?.then_some(texts),
            }
        } else {
            return Err(Error::Config(format!(
                "{uri} holds no {INDEX_FILE}, and there is neither {} nor {} to make shards of. If it \
                 holds WebDataset shards, make an index with `cnclip prepare --shards {uri}`; else \
                 correct the address.",
                root.object_uri(&images),
                root.object_uri(&beside)
            )));
        };

        Ok(Self { root, files })
    }

    /// Copies its files to this machine, makes shards of them and drops the copies.
    fn build_shards(&self, uri: &str, options: &PrepareOptions) -> Result<Dataset> {
        let temporary = std::env::temp_dir();
        let folder = tempfile::tempdir().map_err(Error::file("create a folder in", temporary))?;
        let [copies, shards] = ["files", "shards"].map(|name| folder.path().join(name));

        for name in self.files.file_names() {
            tracing::info!("Copying {}", self.root.object_uri(&name));
            self.root.download_to(&name, &copies.join(&name))?;
        }

        let output = Store::open(&shards.display().to_string())?;
        let prepared = self.prepare_shards(&copies, &output, options);
        let mut prepared = prepared.map_err(|error| match error {
            Error::Data(told) => Error::Data(self.with_source_uris(&told, &copies)),
            other => other,
        })?;

        let examples = prepared.skipped.examples.iter_mut();
        examples.for_each(|told| *told = self.with_source_uris(told, &copies));
        prepared.log_summary(&format!("Shards made of {uri}"));
        fs::remove_dir_all(&copies).map_err(Error::file("remove", &copies))?;

        Ok(Dataset::new(output.with_display_uri(uri))?.with_temp_dir(folder))
    }

    fn prepare_shards(
        &self,
        copies: &Path,
        output: &Store,
        options: &PrepareOptions,
    ) -> Result<PreparedDataset> {
        let copy = |name: &String| copies.join(name);
        match &self.files {
            SplitFiles::TsvJsonl { images, texts } => {
                prepare::prepare_files(&copy(images), &copy(texts), output, options, log_progress)
            }
            SplitFiles::Lmdb { folder, texts } => {
                let texts = texts.as_ref().map(copy);
                let texts = texts.as_deref();
                prepare::prepare_lmdb(&copy(folder), texts, output, options, log_progress)
            }
        }
    }

    /// What is told of copies, told of where they are from.
    fn with_source_uris(&self, told: &str, copies: &Path) -> String {
        told.replace(
            &format!("{}/", copies.display()),
            &format!("{}/", self.root.uri()),
        )
    }
}

impl SplitFiles {
    /// All of them; the small ones first.
    fn file_names(&self) -> Vec<String> {
        match self {
            Self::TsvJsonl { images, texts } => vec![texts.clone(), images.clone()],
            Self::Lmdb { folder, texts } => {
                let database = |name| format!("{folder}/{name}/{LMDB_DATA_FILE}");
                vec![
                    texts.clone().unwrap_or_else(|| database("pairs")),
                    database("imgs"),
                ]
            }
        }
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

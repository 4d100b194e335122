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

use super::prepare::{self, Options, Prepared, Progress};
use super::shard::{Dataset, INDEX};
use crate::error::{Error, Result};
use crate::store::Store;

/// The file of a database.
const DATABASE: &str = "data.mdb";

/// The data set at a URI or path: shards that are there, or those of a split, `<folder>/<split>` or
/// `<folder>/lmdb/<split>`, which lie on this machine as long as anybody has them.
///
/// # Errors
/// If there is neither, or it cannot be used; messages name files by where they are, not by their copies.
///
/// # Guarantees
/// A split is the data set that `cnclip prepare` makes of the same files, with the same digest.
pub fn open(uri: &str, options: &Options) -> Result<Dataset> {
    let store = Store::open(uri)?;
    if store.size(INDEX)?.is_some() {
        return Dataset::new(store);
    }

    match place(uri) {
        Some(place) => Split::find(uri, place)?.shards(uri, options),
        None => Dataset::new(store),
    }
}

/// The files of a split, all below one place.
struct Split {
    root: Store,
    files: Files,
}

/// What they are called from there.
enum Files {
    Lines {
        images: String,
        texts: String,
    },
    Databases {
        folder: String,
        texts: Option<String>,
    },
}

/// Where a split is looked for: the place that its files are below, what the URI is from there, and what
/// the split is called.
fn place(uri: &str) -> Option<(&str, String, &str)> {
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

impl Split {
    /// The split that a URI names.
    fn find(uri: &str, (root, folder, split): (&str, String, &str)) -> Result<Self> {
        let root = Store::open(root)?;
        let there = |name: &str| root.size(name).map(|size| size.is_some());
        let images = format!("{split}_imgs.tsv");
        let texts = format!("{split}_texts.jsonl");
        let beside = format!("lmdb/{split}");
        let files = if there(&format!("{folder}/imgs/{DATABASE}"))? {
            Files::Databases {
                folder,
                texts: there(&texts)?.then_some(texts),
            }
        } else if there(&images)? {
            Files::Lines { images, texts }
        } else if there(&format!("{beside}/imgs/{DATABASE}"))? {
            Files::Databases {
                folder: beside,
                texts: there(&texts)?.then_some(texts),
            }
        } else {
            return Err(Error::Config(format!(
                "{uri} holds no {INDEX}, and there is neither {} nor {} to make shards of. If it \
                 holds WebDataset shards, make an index with `cnclip prepare --shards {uri}`; else \
                 correct the address.",
                root.uri_of(&images),
                root.uri_of(&beside)
            )));
        };

        Ok(Self { root, files })
    }

    /// Copies its files to this machine, makes shards of them and drops the copies.
    fn shards(&self, uri: &str, options: &Options) -> Result<Dataset> {
        let temporary = std::env::temp_dir();
        let folder = tempfile::tempdir().map_err(Error::file("create a folder in", temporary))?;
        let [copies, shards] = ["files", "shards"].map(|name| folder.path().join(name));

        for name in self.files.names() {
            tracing::info!("Copying {}", self.root.uri_of(&name));
            self.root.save(&name, &copies.join(&name))?;
        }

        let output = Store::open(&shards.display().to_string())?;
        let prepared = self.prepare(&copies, &output, options);
        let mut prepared = prepared.map_err(|error| match error {
            Error::Data(told) => Error::Data(self.by_place(&told, &copies)),
            other => other,
        })?;

        let examples = prepared.skipped.examples.iter_mut();
        examples.for_each(|told| *told = self.by_place(told, &copies));
        prepared.tell(&format!("Shards made of {uri}"));
        fs::remove_dir_all(&copies).map_err(Error::file("remove", &copies))?;

        Ok(Dataset::new(output.known_as(uri))?.within(folder))
    }

    fn prepare(&self, copies: &Path, output: &Store, options: &Options) -> Result<Prepared> {
        let copy = |name: &String| copies.join(name);
        match &self.files {
            Files::Lines { images, texts } => {
                prepare::prepare(&copy(images), &copy(texts), output, options, shown)
            }
            Files::Databases { folder, texts } => {
                let texts = texts.as_ref().map(copy);
                let texts = texts.as_deref();
                prepare::prepare_databases(&copy(folder), texts, output, options, shown)
            }
        }
    }

    /// What is told of copies, told of where they are from.
    fn by_place(&self, told: &str, copies: &Path) -> String {
        told.replace(
            &format!("{}/", copies.display()),
            &format!("{}/", self.root.uri()),
        )
    }
}

impl Files {
    /// All of them; the small ones first.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Lines { images, texts } => vec![texts.clone(), images.clone()],
            Self::Databases { folder, texts } => {
                let database = |name| format!("{folder}/{name}/{DATABASE}");
                vec![
                    texts.clone().unwrap_or_else(|| database("pairs")),
                    database("imgs"),
                ]
            }
        }
    }
}

/// Ten lines in the log, however many images there are.
fn shown(Progress { done, total, .. }: Progress) {
    if done * 10 / total > (done - 1) * 10 / total {
        tracing::info!(done, total, "Making shards");
    }
}

#[cfg(test)]
mod tests;

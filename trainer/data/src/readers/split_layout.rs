//! Which files make a split, by the formats that are looked for. Only asks a store what is there.

use std::path::Path;

use super::{DatasetReader, SPLIT_LAYOUTS, lmdb, tsv};
use crate::error::Result;
use crate::store::Store;

/// Where the files of a split are looked for.
#[derive(Debug)]
pub struct SplitLocation {
    /// The folder that all its files are below.
    pub root: Store,
    /// The folder that its URI names, relative to the root.
    pub folder: String,
    /// The name of the split: `train`, `valid`.
    pub name: String,
}

/// The files of a split in one format.
pub struct SplitFiles {
    /// Their names relative to the root, in the order in which they should be copied.
    pub names: Vec<String>,
    /// Opens the copies below a local folder that takes the place of the root.
    pub open: Box<OpenCopies>,
}

/// Opens the files of a split below a local folder.
pub type OpenCopies = dyn Fn(&Path) -> Result<DatasetReader>;

/// The parts of a URI that names a split.
#[derive(Debug, PartialEq, Eq)]
struct SplitUri<'a> {
    root: &'a str,
    folder: String,
    name: &'a str,
}

impl<'a> SplitUri<'a> {
    fn parse(uri: &'a str) -> Option<Self> {
        let uri = uri.trim_end_matches('/');
        let (parent, name) = uri.rsplit_once('/').unwrap_or((".", uri));

        let (grandparent, folder) = parent.rsplit_once('/').unwrap_or((".", parent));

        // What is left of `s3://bucket` and of `/folder` is no folder to look in.
        let is_folder = |uri: &str| !uri.is_empty() && !uri.ends_with('/');

        let (root, folder) = match folder {
            "lmdb" if is_folder(grandparent) => (grandparent, lmdb::shared_folder_name(name)),
            _ if is_folder(parent) => (parent, name.to_owned()),
            _ => return None,
        };

        Some(Self { root, folder, name })
    }
}

impl SplitLocation {
    /// The split named by a URI, `<root>/<split>` or `<root>/lmdb/<split>`; `None` if the URI has no folder
    /// above the split.
    ///
    /// # Errors
    /// If the URI names no store.
    pub fn from_uri(uri: &str) -> Result<Option<Self>> {
        let Some(SplitUri { root, folder, name }) = SplitUri::parse(uri) else {
            return Ok(None);
        };

        Ok(Some(Self {
            root: Store::open(root)?,
            folder,
            name: name.to_owned(),
        }))
    }

    /// The files of the split in the first format that it is found in.
    ///
    /// # Errors
    /// If the store does not answer.
    pub fn find_files(&self) -> Result<Option<SplitFiles>> {
        // The first one found counts: several formats of one split hold the same data.
        for find in SPLIT_LAYOUTS {
            if let Some(files) = find(self)? {
                return Ok(Some(files));
            }
        }

        Ok(None)
    }

    /// URIs of what is looked for beside the split, for messages.
    pub fn expected_uris(&self) -> [String; 2] {
        let images = tsv::images_file_name(&self.name);
        let databases = lmdb::shared_folder_name(&self.name);
        [images, databases].map(|name| self.root.object_uri(&name))
    }

    /// Asks for the size and not for a listing, which on an object store costs a request for every thousand objects
    /// of the folder.
    pub(super) fn has_file(&self, name: &str) -> Result<bool> {
        self.root.object_size(name).map(|size| size.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_root_folder_and_split() {
        let table = [
            ("s3://data/MUGE/valid", Some(("s3://data/MUGE", "valid"))),
            ("s3://data/MUGE/valid/", Some(("s3://data/MUGE", "valid"))),
            (
                "s3://data/MUGE/lmdb/valid/",
                Some(("s3://data/MUGE", "lmdb/valid")),
            ),
            ("s3://data/valid", Some(("s3://data", "valid"))),
            ("s3://data/xlmdb/valid", Some(("s3://data/xlmdb", "valid"))),
            ("s3://lmdb/valid", Some(("s3://lmdb", "valid"))),
            ("s3://data", None),
            ("s3://data/", None),
            ("file:///valid", None),
            ("/valid", None),
            ("valid", Some((".", "valid"))),
            ("lmdb/valid", Some((".", "lmdb/valid"))),
        ];

        for (uri, expected) in table {
            let expected = expected.map(|(root, folder)| SplitUri {
                root,
                folder: folder.to_owned(),
                name: "valid",
            });

            assert_eq!(SplitUri::parse(uri), expected, "{uri}");
        }
    }
}

//! Cuts the bytes of one WebDataset tar into samples without copying an image. Never decodes one,
//! and never fails: what cannot be read is reported beside what can.

use std::collections::{BTreeMap, HashSet};
use std::io::Cursor;

use bytes::Bytes;

use super::label::SampleLabel;

/// Endings of images; which format one has is decided by its content.
const IMAGE_EXTENSIONS: [&str; 10] = [
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "jfif", "jpe", "img", "image",
];
/// Endings of files with nothing but a caption.
const TEXT_EXTENSIONS: [&str; 3] = ["txt", "caption", "text"];

/// One image with its label, as stored in the tar.
#[derive(Clone, Debug)]
pub struct TarSample {
    /// What the names of its files have in common.
    pub key: String,
    /// The encoded image.
    pub image: Bytes,
    /// Its label, or why that could not be parsed.
    pub label: Result<SampleLabel, String>,
}

/// What a tar holds.
#[derive(Debug, Default)]
pub struct TarContents {
    /// In their order.
    pub samples: Vec<TarSample>,
    /// Why there are no more of them, or why they are not what was meant.
    pub damage: Option<String>,
    /// Files that are part of no sample, by ending: captions without an image, and what no sample has.
    pub unused_files: BTreeMap<String, u64>,
}

/// The samples of a tar, and what is wrong with it.
pub fn read_tar(tar: &Bytes) -> TarContents {
    let mut contents = TarContents::default();
    if tar.starts_with(&[0x1F, 0x8B]) {
        contents.damage = Some("it is compressed by gzip. Unpack it with gunzip".into());
        return contents;
    }

    let mut keys = HashSet::new();
    let mut open = SampleFiles::default();
    let torn = visit_tar_files(tar, |name, bytes| {
        // WebDataset's rule: a name that begins with a dot has no key. `._1.jpg` is what macOS adds to `1.jpg`.
        let Some(SampleName { key, extension }) = split_sample_name(name) else {
            return;
        };

        // The files of a sample lie one behind the other: another key begins another sample.
        if key != open.key {
            let last = std::mem::take(&mut open);
            open.key = key.to_owned();
            contents.close_sample(last, &mut keys);
        }

        if let Some(bytes) = bytes {
            open.add_file(&extension, bytes);
        }
    });

    // The files of one sample may go on behind the tear, so the last one is not to be trusted.
    if torn.is_none() {
        contents.close_sample(open, &mut keys);
    }

    contents.damage = torn.or(contents.damage);
    contents
}

impl TarContents {
    fn close_sample(&mut self, files: SampleFiles, keys: &mut HashSet<String>) {
        for (extension, count) in files.unused_extensions() {
            *self.unused_files.entry(extension).or_default() += count;
        }

        if files.is_empty() {
            return;
        }

        // Its image and its caption would be two samples, neither of which is one.
        if !keys.insert(files.key.clone()) {
            let found = format!(
                "the files of sample {} do not lie together, or its key comes twice. Pack it with \
                 `tar --sort=name`",
                files.key
            );
            self.damage.get_or_insert(found);
        }

        if files.images > 1 {
            let found = format!("sample {} has {} images", files.key, files.images);
            self.damage.get_or_insert(found);
        }

        self.samples.extend(files.into_sample());
    }
}

/// Calls `each` for every file, without bytes for one that is cut off; returns why the walk ended
/// before the tar's own end mark.
fn visit_tar_files(tar: &Bytes, mut each: impl FnMut(&str, Option<Bytes>)) -> Option<String> {
    // With seek, so that contents are sliced out of `tar` and not copied: a shard holds one allocation.
    let mut archive = tar::Archive::new(Cursor::new(tar.as_ref()));
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries,
        Err(error) => return Some(error.to_string()),
    };

    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(error.to_string()),
        };

        let name = entry.path_bytes();
        let start = entry.raw_file_position() as usize;
        let name = String::from_utf8_lossy(&name);
        let end = start
            .checked_add(entry.size() as usize)
            .filter(|end| *end <= tar.len());

        match end {
            Some(end) if entry.header().entry_type().is_file() => {
                each(&name, Some(tar.slice(start..end)));
            }
            Some(_) => {}
            None => {
                each(&name, None);
                return Some("it ends inside a file".into());
            }
        }
    }

    // Two zero blocks end a tar; one that was cut between two files lacks them.
    let whole = tar.len() >= 1024 && tar[tar.len() - 1024..].iter().all(|byte| *byte == 0);
    (!whole).then(|| "its end mark is missing".into())
}

/// The name of a file of a sample.
struct SampleName<'a> {
    key: &'a str,
    extension: String,
}

/// WebDataset's rule: the key ends at the first dot of the last path part, which does not begin with one.
fn split_sample_name(name: &str) -> Option<SampleName<'_>> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].find('.') {
        Some(0) => None,
        Some(dot) => Some(SampleName {
            key: &name[..start + dot],
            extension: name[start + dot + 1..].to_ascii_lowercase(),
        }),
        None => Some(SampleName {
            key: name,
            extension: String::new(),
        }),
    }
}

#[derive(Default)]
struct SampleFiles {
    key: String,
    image: Option<Bytes>,
    images: u32,
    json: Option<Bytes>,
    txt: Option<Bytes>,
    /// Endings that no sample has.
    others: Vec<String>,
}

impl SampleFiles {
    fn add_file(&mut self, extension: &str, bytes: Bytes) {
        match extension {
            "json" => self.json = Some(bytes),
            _ if TEXT_EXTENSIONS.contains(&extension) => self.txt = Some(bytes),
            _ if IMAGE_EXTENSIONS.contains(&extension) => {
                self.images += 1;
                self.image = Some(bytes);
            }
            _ => self.others.push(extension.to_owned()),
        }
    }

    /// Whether it has no file that a sample is made of.
    fn is_empty(&self) -> bool {
        self.image.is_none() && self.json.is_none() && self.txt.is_none()
    }

    /// What no sample is made of, and labels without an image.
    fn unused_extensions(&self) -> impl Iterator<Item = (String, u64)> {
        let is_orphan = self.image.is_none();
        let labels = [("json", &self.json), ("txt", &self.txt)];
        let orphans = labels
            .into_iter()
            .filter(move |(_, file)| is_orphan && file.is_some())
            .map(|(extension, _)| extension.to_owned());

        self.others
            .iter()
            .cloned()
            .chain(orphans)
            .map(|extension| (extension, 1))
    }

    /// The sample these files make; files without an image make none.
    fn into_sample(self) -> Option<TarSample> {
        let label = SampleLabel::parse_label(self.json.as_deref(), self.txt.as_deref());
        Some(TarSample {
            key: self.key,
            image: self.image?,
            label,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Bytes {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }

        builder.into_inner().unwrap().into()
    }

    fn example() -> Bytes {
        tar(&[
            ("a/1.jpg", b"first"),
            ("a/1.txt", "一".as_bytes()),
            ("a/2.5.json", b"{}"),
            ("readme.md", b"no sample"),
            ("3.PNG", b"third"),
            ("3.json", r#"{"text": "三"}"#.as_bytes()),
            ("4.webp", b"fourth"),
        ])
    }

    #[test]
    fn files_that_share_a_key_make_a_sample() {
        let contents = read_tar(&example());
        let members = &contents.samples;
        assert_eq!(contents.damage, None);
        let found: Vec<_> = (members.iter())
            .map(|m| {
                let texts = &m.label.as_ref().unwrap().texts;
                (
                    m.key.as_str(),
                    m.image.as_ref(),
                    texts.first().map(|t| t.text.as_str()),
                )
            })
            .collect();

        let expected: [(&str, &[u8], Option<&str>); 3] = [
            ("a/1", b"first", Some("一")),
            ("3", b"third", Some("三")),
            ("4", b"fourth", None),
        ];

        assert_eq!(found, expected);
        let unused: Vec<_> = contents.unused_files.into_iter().collect();
        assert_eq!(unused, [("5.json".to_owned(), 1), ("md".to_owned(), 1)]);
    }

    #[test]
    fn files_of_macos_are_left_out_and_part_no_sample() {
        let mac = b"\0\x05\x16\x07";
        let contents = read_tar(&tar(&[
            ("._1.png", mac),
            ("1.png", b"first"),
            ("._1.txt", mac),
            ("1.txt", "一".as_bytes()),
            ("a/._2.jfif", mac),
            ("a/2.jfif", b"second"),
            ("a/2.caption", "二".as_bytes()),
        ]));

        assert_eq!(contents.damage, None);
        let texts = contents.samples.iter().map(|sample| {
            let label = sample.label.as_ref().unwrap();
            label.texts[0].text.clone()
        });

        assert_eq!(texts.collect::<Vec<_>>(), ["一", "二"]);
    }

    #[test]
    fn parts_of_a_sample_that_lie_apart_two_images_of_one_and_gzip_are_reported() {
        let text = "一".as_bytes();
        let table = [
            (
                tar(&[("1.png", b"1"), ("2.png", b"2"), ("1.txt", text)]),
                "sample 1 do not lie together",
            ),
            (
                tar(&[("1.png", b"1"), ("1.jpg", b"2")]),
                "sample 1 has 2 images",
            ),
            (Bytes::from_static(&[0x1F, 0x8B, 8, 0]), "gunzip"),
        ];

        for (tar, words) in table {
            let damage = read_tar(&tar).damage.unwrap();
            assert!(damage.contains(words), "{damage}");
        }
    }

    #[test]
    fn a_torn_tar_gives_the_samples_before_the_tear_wherever_it_is() {
        let whole = example();
        let keys =
            |members: &[TarSample]| members.iter().map(|m| m.key.clone()).collect::<Vec<_>>();
        let all = read_tar(&whole).samples;

        for length in 0..whole.len() {
            let contents = read_tar(&whole.slice(..length));
            let members = contents.samples;
            assert!(
                contents.damage.is_some() || length >= whole.len() - 512,
                "cut at {length} goes unseen"
            );

            assert!(keys(&all).starts_with(&keys(&members)), "cut at {length}");
        }
    }
}

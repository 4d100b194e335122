//! Cuts the bytes of one WebDataset tar into samples without copying an image. Never decodes one,
//! and never fails: what cannot be read is reported beside what can.

use std::io::Cursor;

use bytes::Bytes;

use super::label::SampleLabel;

const IMAGE_EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

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

/// The samples of a tar in their order, and why there are no more of them if it is torn.
pub fn read_tar(tar: &Bytes) -> (Vec<TarSample>, Option<String>) {
    let mut members = Vec::new();
    let mut open = SampleFiles::default();
    let torn = visit_tar_files(tar, |name, bytes| {
        let (key, extension) = split_sample_key(name);
        // WebDataset writes the files of a sample one behind the other: another key begins another sample.
        if key != open.key {
            members.extend(std::mem::take(&mut open).into_sample());
            open.key = key.to_owned();
        }

        if let Some(bytes) = bytes {
            open.add_file(&extension, bytes);
        }
    });

    // The files of one sample may go on behind the tear, so the last one is not to be trusted.
    if torn.is_none() {
        members.extend(open.into_sample());
    }

    (members, torn)
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

/// WebDataset's rule: the key ends at the first dot of the last path part.
fn split_sample_key(name: &str) -> (&str, String) {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[start..].find('.') {
        Some(dot) => (
            &name[..start + dot],
            name[start + dot + 1..].to_ascii_lowercase(),
        ),
        None => (name, String::new()),
    }
}

#[derive(Default)]
struct SampleFiles {
    key: String,
    image: Option<Bytes>,
    json: Option<Bytes>,
    txt: Option<Bytes>,
}

impl SampleFiles {
    fn add_file(&mut self, extension: &str, bytes: Bytes) {
        match extension {
            "json" => self.json = Some(bytes),
            "txt" => self.txt = Some(bytes),
            _ if IMAGE_EXTENSIONS.contains(&extension) => self.image = Some(bytes),
            _ => {}
        }
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
        let (members, torn) = read_tar(&example());
        assert_eq!(torn, None);
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
    }

    #[test]
    fn a_torn_tar_gives_the_samples_before_the_tear_wherever_it_is() {
        let whole = example();
        let keys =
            |members: &[TarSample]| members.iter().map(|m| m.key.clone()).collect::<Vec<_>>();
        let (all, _) = read_tar(&whole);

        for length in 0..whole.len() {
            let (members, torn) = read_tar(&whole.slice(..length));
            assert!(
                torn.is_some() || length >= whole.len() - 512,
                "cut at {length} goes unseen"
            );

            assert!(keys(&all).starts_with(&keys(&members)), "cut at {length}");
        }
    }
}

//! Reads the reference's image file (`image_id`, tab, base64) in the order of the image numbers,
//! one picture at a time. Never looks at what a picture shows.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::{Error, Result};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

struct Place {
    image_id: u64,
    line: u64,
    start: u64,
    length: usize,
}

/// The images of a TSV file, by number.
pub(crate) struct Images {
    path: PathBuf,
    file: File,
    places: Vec<Place>,
}

impl Images {
    /// Finds every image, without keeping any.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::file("open", path))?;
        let mut places = scan(path, &mut file)?;
        places.sort_by_key(|place| (place.image_id, place.line));
        if let Some(twice) = places.windows(2).find(|pair| pair[0].image_id == pair[1].image_id) {
            return Err(Error::Data(format!(
                "{} gives image {} twice, on lines {} and {}. Remove one of them.",
                path.display(),
                twice[0].image_id,
                twice[0].line,
                twice[1].line
            )));
        }
        if places.is_empty() {
            return Err(Error::Data(format!("{} holds no image", path.display())));
        }
        Ok(Self { path: path.to_owned(), file, places })
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn contains(&self, image_id: u64) -> bool {
        self.places.binary_search_by_key(&image_id, |place| place.image_id).is_ok()
    }

    /// The number of the image at a place, and its line.
    pub(crate) fn place(&self, place: usize) -> (u64, u64) {
        (self.places[place].image_id, self.places[place].line)
    }

    /// The encoded picture at a place.
    pub(crate) fn bytes(&mut self, place: usize) -> Result<Vec<u8>> {
        let Place { image_id, line, start, length } = self.places[place];
        let mut text = vec![0; length];
        self.file
            .seek(SeekFrom::Start(start))
            .and_then(|_| self.file.read_exact(&mut text))
            .map_err(Error::file("read", &self.path))?;
        // The reference reads both alphabets.
        for byte in &mut text {
            *byte = match *byte {
                b'-' => b'+',
                b'_' => b'/',
                byte => byte,
            };
        }
        BASE64.decode(&text).map_err(|error| {
            Error::Data(format!(
                "{} line {line}: image {image_id} is not base64 ({error}). Write the line again.",
                self.path.display()
            ))
        })
    }
}

fn scan(path: &Path, file: &mut File) -> Result<Vec<Place>> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut places, mut text, mut offset) = (Vec::new(), Vec::new(), 0);
    for line in 1.. {
        text.clear();
        let read = reader.read_until(b'\n', &mut text).map_err(Error::file("read", path))?;
        if read == 0 {
            break;
        }
        let trimmed = text.trim_ascii_end();
        if !trimmed.is_empty() {
            let (image_id, tab) = number(trimmed).ok_or_else(|| {
                let found = String::from_utf8_lossy(&trimmed[..trimmed.len().min(40)]);
                Error::Data(format!(
                    "{} line {line} begins with {found:?}; expected a whole number, a tab and the \
                     picture in base64. Number the images from 0.",
                    path.display()
                ))
            })?;
            let (start, length) = (offset + tab as u64 + 1, trimmed.len() - tab - 1);
            places.push(Place { image_id, line, start, length });
        }
        offset += read as u64;
    }
    Ok(places)
}

/// The number before the first tab, and where the tab is.
fn number(line: &[u8]) -> Option<(u64, usize)> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let text = std::str::from_utf8(&line[..tab]).ok()?;
    Some((text.parse().ok()?, tab))
}

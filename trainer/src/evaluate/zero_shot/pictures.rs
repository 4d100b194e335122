//! The pictures of a data set on their way to the encoder: fetched, decoded and encoded beside each
//! other. Judges no picture.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ready::Ready;
use crate::error::{Error, Result};
use crate::evaluate::shares::{exchange, share};
use crate::evaluate::unusable::Unusable;
use crate::evaluate::{Encoder, Sizes};
use cnclip_compute::ops::patchify::Pixels;
use cnclip_data::preprocess::plain;
use cnclip_data::store::Fault;
use cnclip_distributed::World;

/// Chunks of pictures that wait between two who work on them.
const CHUNKS_AHEAD: usize = 2;

/// What the model says of the pictures.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// Unit features.
    ///
    /// # Shapes
    /// `[used, width]`
    pub(super) features: Vec<f32>,
    /// Which pictures they are of.
    pub(super) used: Vec<usize>,
}

/// Which pictures of a part could be used, and what was wrong with the others.
#[derive(Default, Serialize, Deserialize)]
struct Found {
    used: Vec<usize>,
    unusable: Unusable,
}

/// Some pictures and their files.
type Files = (Range<usize>, Vec<Result<Bytes>>);
/// Planes of pictures, one behind the other, and what was found.
type Chunk = (Vec<u8>, Found);

/// Encodes every picture, each rank its share.
///
/// # Errors
/// If the store fails, a larger share than `most_skipped` cannot be used, or a rank is lost.
///
/// # Guarantees
/// All ranks get the same, whatever their number.
pub(super) fn encode(
    ready: &Ready,
    encoder: &mut impl Encoder,
    (sizes, most_skipped): (Sizes, f64),
    world: &World,
) -> Result<Encoded> {
    let mut own = Found::default();
    let mut features = Vec::new();
    let share = share(ready.files.len(), world);
    std::thread::scope(|scope| {
        let (fetched, files) = sync_channel(CHUNKS_AHEAD);
        let (decoded, chunks) = sync_channel(CHUNKS_AHEAD);
        scope.spawn(move || fetch(ready, share, sizes.batch, &fetched));
        scope.spawn(move || decode(ready, sizes.side, &files, &decoded));

        chunks.into_iter().try_for_each(|chunk: Result<Chunk>| {
            let (planes, found) = chunk?;
            if !found.used.is_empty() {
                features.extend_from_slice(&encoder.encode_images(Pixels::Bytes(&planes)));
            }

            own.append(found);
            Ok::<_, Error>(())
        })
    })?;

    encoder.check()?;
    let mut found = Found::default();
    exchange(&own, world)?
        .into_iter()
        .for_each(|next| found.append(next));

    judge(ready, &found, most_skipped)?;
    Ok(Encoded {
        features: world.concat(features)?,
        used: found.used,
    })
}

/// Gives the files of a share in chunks that fit the encoder, until nobody takes them.
fn fetch(ready: &Ready, share: Range<usize>, batch: usize, to: &SyncSender<Files>) {
    for first in share.clone().step_by(batch) {
        let chunk = first..share.end.min(first + batch);
        let names = ready.files[chunk.clone()].iter().map(|file| file.path());
        let files = ready
            .store
            .get_many(&names.collect::<Vec<_>>())
            .into_iter()
            .map(|file| file.map_err(Error::from))
            .collect();

        if to.send((chunk, files)).is_err() {
            return;
        }
    }
}

/// Decodes what comes, until nobody takes it.
fn decode(ready: &Ready, side: usize, from: &Receiver<Files>, to: &SyncSender<Result<Chunk>>) {
    for (places, files) in from {
        if to.send(chunk(ready, side, places, files)).is_err() {
            return;
        }
    }
}

fn chunk(
    ready: &Ready,
    side: usize,
    places: Range<usize>,
    files: Vec<Result<Bytes>>,
) -> Result<Chunk> {
    let planes = |file: Result<Bytes>| match file {
        Ok(bytes) => Ok(plain(&bytes, side).map_err(|error| error.to_string())),
        // It was there when the data set was listed.
        Err(Error::Store(fault)) if fault.fault == Fault::Missing => Ok(Err(fault.to_string())),
        Err(error) => Err(error),
    };

    let pictures: Vec<_> = files.into_par_iter().map(planes).collect();
    let (mut all, mut found) = Chunk::default();
    for (place, picture) in places.zip(pictures) {
        match picture? {
            Ok(planes) => {
                all.extend(planes);
                found.used.push(place);
            }
            Err(told) => {
                found
                    .unusable
                    .add(format!("{}: {told}.", ready.files[place].path()));
            }
        }
    }

    Ok((all, found))
}

impl Found {
    fn append(&mut self, next: Self) {
        self.used.extend(next.used);
        self.unusable.append(next.unusable);
    }
}

fn judge(ready: &Ready, found: &Found, most_skipped: f64) -> Result<()> {
    let what = format!("pictures of {}", ready.store.uri());
    found
        .unusable
        .within(most_skipped, (ready.files.len() as u64, &what))
}

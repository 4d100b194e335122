//! The pictures of a data set on their way to the encoder: fetched, decoded and encoded beside each
//! other. Judges no picture.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::prepared::PreparedZeroShot;
use crate::error::{Error, Result};
use crate::evaluate::sharding::{all_gather_json, rank_range};
use crate::evaluate::skip_budget::EvalSkipBudget;
use crate::evaluate::{Encoder, EncoderInputSizes};
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_data::error::StoreErrorKind;
use cnclip_data::image::preprocess::preprocess_for_eval;
use cnclip_distributed::Communicator;

/// Chunks of pictures that wait between two who work on them.
const CHUNKS_AHEAD: usize = 2;

/// What the model says of the pictures.
#[derive(Debug, Default)]
pub(super) struct EncodedImages {
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
struct UsableImages {
    used: Vec<usize>,
    unusable: EvalSkipBudget,
}

/// Some pictures and their files.
type FetchedFiles = (Range<usize>, Vec<Result<Bytes>>);
/// Planes of pictures, one behind the other, and what was found.
type DecodedChunk = (Vec<u8>, UsableImages);

/// Encodes every picture, each rank its share.
///
/// # Errors
/// If the store fails, a larger share than `most_skipped` cannot be used, or a rank is lost.
///
/// # Guarantees
/// All ranks get the same, whatever their number.
pub(super) fn encode_dataset_images(
    ready: &PreparedZeroShot,
    encoder: &mut impl Encoder,
    (sizes, most_skipped): (EncoderInputSizes, f64),
    world: &Communicator,
) -> Result<EncodedImages> {
    let mut own = UsableImages::default();
    let mut features = Vec::new();
    let share = rank_range(ready.files.len(), world);
    std::thread::scope(|scope| {
        let (fetched, files) = sync_channel(CHUNKS_AHEAD);
        let (decoded, chunks) = sync_channel(CHUNKS_AHEAD);
        scope.spawn(move || fetch_files(ready, share, sizes.batch_size, &fetched));
        scope.spawn(move || decode_files(ready, sizes.image_size, &files, &decoded));

        chunks
            .into_iter()
            .try_for_each(|chunk: Result<DecodedChunk>| {
                let (planes, found) = chunk?;
                if !found.used.is_empty() {
                    features.extend_from_slice(&encoder.encode_images(PixelBatch::Bytes(&planes)));
                }

                own.append_next(found);
                Ok::<_, Error>(())
            })
    })?;

    encoder.check_device_errors()?;
    let mut found = UsableImages::default();
    all_gather_json(&own, world)?
        .into_iter()
        .for_each(|next| found.append_next(next));

    check_skip_budget(ready, &found, most_skipped)?;
    Ok(EncodedImages {
        features: world.all_gather_concat(features)?,
        used: found.used,
    })
}

/// Gives the files of a share in chunks that fit the encoder, until nobody takes them.
fn fetch_files(
    ready: &PreparedZeroShot,
    share: Range<usize>,
    batch: usize,
    to: &SyncSender<FetchedFiles>,
) {
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
fn decode_files(
    ready: &PreparedZeroShot,
    side: usize,
    from: &Receiver<FetchedFiles>,
    to: &SyncSender<Result<DecodedChunk>>,
) {
    for (places, files) in from {
        if to.send(decode_chunk(ready, side, places, files)).is_err() {
            return;
        }
    }
}

fn decode_chunk(
    ready: &PreparedZeroShot,
    side: usize,
    places: Range<usize>,
    files: Vec<Result<Bytes>>,
) -> Result<DecodedChunk> {
    let planes = |file: Result<Bytes>| match file {
        Ok(bytes) => Ok(preprocess_for_eval(&bytes, side).map_err(|error| error.to_string())),
        // It was there when the data set was listed.
        Err(Error::Store(fault)) if fault.kind == StoreErrorKind::NotFound => {
            Ok(Err(fault.to_string()))
        }
        Err(error) => Err(error),
    };

    let pictures: Vec<_> = files.into_par_iter().map(planes).collect();
    let (mut all, mut found) = DecodedChunk::default();
    for (place, picture) in places.zip(pictures) {
        match picture? {
            Ok(planes) => {
                all.extend(planes);
                found.used.push(place);
            }
            Err(told) => {
                found
                    .unusable
                    .record_skip(format!("{}: {told}.", ready.files[place].path()));
            }
        }
    }

    Ok((all, found))
}

impl UsableImages {
    fn append_next(&mut self, next: Self) {
        self.used.extend(next.used);
        self.unusable.merge_skips(next.unusable);
    }
}

fn check_skip_budget(
    ready: &PreparedZeroShot,
    found: &UsableImages,
    most_skipped: f64,
) -> Result<()> {
    let what = format!("pictures of {}", ready.store.uri());
    found
        .unusable
        .ensure_within_limit(most_skipped, ready.files.len() as u64, &what)
}

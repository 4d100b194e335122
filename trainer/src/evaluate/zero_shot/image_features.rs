//! Features of the images of a data set: fetched, decoded and encoded in a pipeline of three stages.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::prepared::PreparedZeroShot;
use crate::error::{Error, Result};
use crate::evaluate::sharding::all_gather_json;
use crate::evaluate::skip_budget::EvalSkipBudget;
use crate::evaluate::{EncodeOptions, Encoder};
use cnclip_compute::collective::Collective;
use cnclip_compute::ops::patchify::PixelBatch;
use cnclip_data::error::StoreErrorKind;
use cnclip_data::image::preprocess::preprocess_for_eval;
use cnclip_distributed::Communicator;

/// Chunks that wait between two stages of the pipeline.
const CHUNKS_AHEAD: usize = 2;

/// The features of the images.
#[derive(Debug, Default)]
pub(super) struct EncodedImages {
    /// Unit features.
    ///
    /// # Shapes
    /// `[used, width]`
    pub(super) features: Vec<f32>,
    /// Which images they are of.
    pub(super) used: Vec<usize>,
}

/// Which images of a share are usable, and why the others are not.
#[derive(Default, Serialize, Deserialize)]
struct UsableImages {
    used: Vec<usize>,
    unusable: EvalSkipBudget,
}

/// The files of some images.
struct FetchedFiles {
    /// Which images of the data set they are.
    places: Range<usize>,
    files: Vec<Result<Bytes>>,
}

/// Some images, decoded.
#[derive(Default)]
struct DecodedChunk {
    /// Planes of the usable images, one after the other.
    planes: Vec<u8>,
    found: UsableImages,
}

/// Encodes every image, each rank its share.
///
/// # Errors
/// If the store fails, more than `max_skipped_ratio` is unusable, or a rank is lost.
///
/// # Guarantees
/// All ranks get the same, whatever their number.
pub(super) fn encode_dataset_images(
    ready: &PreparedZeroShot,
    encoder: &mut impl Encoder,
    options: EncodeOptions,
    world: &Communicator,
) -> Result<EncodedImages> {
    let sizes = options.input_sizes;
    let mut own = UsableImages::default();
    let mut features = Vec::new();
    let share = world.rank_range(ready.files.len());
    std::thread::scope(|scope| {
        // Bounded, so that a slow encoder stops the downloads instead of filling memory.
        let (fetched, files) = sync_channel(CHUNKS_AHEAD);
        let (decoded, chunks) = sync_channel(CHUNKS_AHEAD);
        scope.spawn(move || fetch_files(ready, share, sizes.batch_size, &fetched));
        scope.spawn(move || decode_files(ready, sizes.image_size, &files, &decoded));

        chunks
            .into_iter()
            .try_for_each(|chunk: Result<DecodedChunk>| {
                let DecodedChunk { planes, found } = chunk?;
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

    // Between two gathers, but no rank is left waiting: all see the same skips and fail together.
    check_skip_budget(ready, &found, options.max_skipped_ratio)?;
    Ok(EncodedImages {
        features: world.all_gather_concat(features)?,
        used: found.used,
    })
}

/// Sends the files of a share in chunks that fit the encoder, until the receiver is gone.
fn fetch_files(
    ready: &PreparedZeroShot,
    share: Range<usize>,
    batch: usize,
    to: &SyncSender<FetchedFiles>,
) {
    for first in share.clone().step_by(batch) {
        let places = first..share.end.min(first + batch);
        let names = ready.files[places.clone()].iter().map(|file| file.path());
        let files = ready
            .store
            .get_many(&names.collect::<Vec<_>>())
            .into_iter()
            .map(|file| file.map_err(Error::from))
            .collect();

        // A later stage has failed, and its error is the one that is returned.
        if to.send(FetchedFiles { places, files }).is_err() {
            return;
        }
    }
}

/// Decodes what it receives, until the receiver of the results is gone.
fn decode_files(
    ready: &PreparedZeroShot,
    side: usize,
    from: &Receiver<FetchedFiles>,
    to: &SyncSender<Result<DecodedChunk>>,
) {
    for FetchedFiles { places, files } in from {
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
        // Listed before, deleted since: skipped like an image that does not decode.
        Err(Error::Store(fault)) if fault.kind == StoreErrorKind::NotFound => {
            Ok(Err(fault.to_string()))
        }
        // Stops the task: counted as skips, an outage of the store would silently change the score.
        Err(error) => Err(error),
    };

    let images: Vec<_> = files.into_par_iter().map(planes).collect();
    let mut chunk = DecodedChunk::default();
    for (place, image) in places.zip(images) {
        match image? {
            Ok(planes) => {
                chunk.planes.extend(planes);
                chunk.found.used.push(place);
            }
            Err(reason) => {
                let skip = format!("{}: {reason}.", ready.files[place].path());
                chunk.found.unusable.record_skip(skip);
            }
        }
    }

    Ok(chunk)
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
    max_skipped_ratio: f64,
) -> Result<()> {
    let what = format!("images of {}", ready.store.uri());
    found
        .unusable
        .ensure_within_limit(max_skipped_ratio, ready.files.len() as u64, &what)
}

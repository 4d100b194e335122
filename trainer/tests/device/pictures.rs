//! Operations on pictures before the first block.

use cnclip_compute::device::{DType, DeviceBuffer};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patch_dropout::PatchDropout;
use cnclip_compute::ops::patchify::{PixelBatch, extract_patches, nchw_to_nhwc};
use cnclip_compute::ops::position_embedding;

use crate::both::{Both, PLACES, Place, Wholes};
use crate::support::{DEVICE, FORMATS};

#[test]
fn patches_and_their_positions() {
    let batch = 3;
    let side = 12;
    let patch = 4;
    let width = 24;
    let picture: Vec<u8> = (0..batch * 3 * side * side)
        .map(|i| (i * 31 % 256) as u8)
        .collect();

    let mut plate = DeviceBuffer::new(&DEVICE, picture.len(), DType::U8);
    let plate = plate.upload_bytes(&picture);
    for (format, percent) in FORMATS
        .into_iter()
        .flat_map(|format| [(format, 0), (format, 50)])
    {
        let mut patches = PatchDropout::new(batch, 9);
        patches.set_masked_percent(percent);
        let seen = Wholes::new(
            patches
                .sample_patches(batch, Dropout::new(1, 2, 3))
                .to_vec(),
        );
        let rows = batch + seen.0.len();
        let mut cut = Both::array(rows * 48, 1, format);
        let table = Both::weights(10 * width, 2, format);
        let class = Both::weights(width, 3, format);
        let mut y = Both::array(rows * width, 4, format);

        let dy = Both::array(rows * width, 5, format);
        let mut dtable = Both::exact(10 * width, 6, DType::F32);
        let mut dclass = Both::exact(width, 7, DType::F32);

        for place in PLACES {
            let pixels = match place {
                Place::Here => PixelBatch::Bytes(&picture),
                Place::Device => PixelBatch::Device(plate),
            };

            extract_patches(pixels, (side, patch), seen.view(place), cut.view_mut(place));
            let tables = (table.view(place), class.view(place));
            position_embedding::forward(tables, seen.view(place), batch, y.view_mut(place));
            let tables = (dtable.view_mut(place), dclass.view_mut(place));
            position_embedding::backward(tables, seen.view(place), batch, dy.view(place));
        }

        cut.agree("patches", 1.0);
        y.agree("positions", 1.0);
        dtable.agree("positions' gradient", 0.0);
        dclass.agree("class token's gradient", 0.0);
    }
}

#[test]
fn channels_become_neighbours() {
    let batch = 2;
    let side = 23;
    let picture: Vec<u8> = (0..batch * 3 * side * side)
        .map(|i| (i * 31 % 256) as u8)
        .collect();

    let mut plate = DeviceBuffer::new(&DEVICE, picture.len(), DType::U8);
    let plate = plate.upload_bytes(&picture);
    for format in FORMATS {
        let mut out = Both::array(picture.len(), 1, format);
        nchw_to_nhwc(PixelBatch::Bytes(&picture), side, out.view_mut(Place::Here));
        nchw_to_nhwc(PixelBatch::Device(plate), side, out.view_mut(Place::Device));
        out.agree("pictures", 1.0);
    }
}

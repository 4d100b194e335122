//! Operations on pictures before the first block.

use cnclip_compute::device::{Buffer, Format};
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::patch_dropout::Patches;
use cnclip_compute::ops::patchify::{Pixels, cut_patches, interleave};
use cnclip_compute::ops::positions;

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

    let mut plate = Buffer::new(&DEVICE, picture.len(), Format::U8);
    let plate = plate.take_bytes(&picture);
    for (format, percent) in FORMATS
        .into_iter()
        .flat_map(|format| [(format, 0), (format, 50)])
    {
        let mut patches = Patches::new(batch, 9);
        patches.mask(percent);
        let seen = Wholes::new(patches.choose(batch, Dropout::new(1, 2, 3)).to_vec());
        let rows = batch + seen.0.len();
        let mut cut = Both::array(rows * 48, 1, format);
        let table = Both::weights(10 * width, 2, format);
        let class = Both::weights(width, 3, format);
        let mut y = Both::array(rows * width, 4, format);

        let dy = Both::array(rows * width, 5, format);
        let mut dtable = Both::exact(10 * width, 6, Format::F32);
        let mut dclass = Both::exact(width, 7, Format::F32);

        for place in PLACES {
            let pixels = match place {
                Place::Here => Pixels::Bytes(&picture),
                Place::Device => Pixels::Device(plate),
            };

            cut_patches(pixels, (side, patch), seen.view(place), cut.view_mut(place));
            let tables = (table.view(place), class.view(place));
            positions::forward(tables, seen.view(place), batch, y.view_mut(place));
            let tables = (dtable.view_mut(place), dclass.view_mut(place));
            positions::backward(tables, seen.view(place), batch, dy.view(place));
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

    let mut plate = Buffer::new(&DEVICE, picture.len(), Format::U8);
    let plate = plate.take_bytes(&picture);
    for format in FORMATS {
        let mut out = Both::array(picture.len(), 1, format);
        interleave(Pixels::Bytes(&picture), side, out.view_mut(Place::Here));
        interleave(Pixels::Device(plate), side, out.view_mut(Place::Device));
        out.agree("pictures", 1.0);
    }
}

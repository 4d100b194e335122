//! Patches and channels-last images: their layout, and the device against the CPU.

use cnclip_compute::device::{DType, DeviceBuffer};
use cnclip_compute::ops::patchify::{PixelBatch, extract_patches, nchw_to_nhwc};

use crate::device_under_test::{DEVICE, DTYPES};
use crate::host_and_device::{HostAndDevice, SIDES, Side, visible_patches};

fn test_bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 256) as u8).collect()
}

#[test]
fn bytes_are_normalized_to_the_references_scale() {
    let mut out = [0.0; 2];
    for (channel, right) in [
        [-1.792_262_7, 1.930_336_3],
        [-1.752_097_3, 2.074_883_7],
        [-1.480_219_7, 2.145_896_7],
    ]
    .iter()
    .enumerate()
    {
        PixelBatch::Bytes(&[9, 0, 255, 9]).read_normalized(1, channel, &mut out);
        assert!(
            out.iter()
                .zip(right)
                .all(|(a, b): (&f32, &f32)| (a - b).abs() < 1e-5),
            "{out:?}"
        );
    }
}

#[test]
fn a_patch_holds_its_square_of_each_channel() {
    let pixels: Vec<f32> = (0..3 * 16).map(|i| i as f32).collect();
    let second = [
        2.0, 3.0, 6.0, 7.0, 18.0, 19.0, 22.0, 23.0, 34.0, 35.0, 38.0, 39.0,
    ];

    for (visible, at) in [(&[0, 1, 2, 3][..], 24), (&[1, 3], 12)] {
        let mut patches = vec![9.0; (1 + visible.len()) * 12];
        let pixels = PixelBatch::Normalized(&pixels);
        extract_patches(pixels, 4, 2, visible.into(), (&mut patches).into());
        assert_eq!(patches[..12], [0.0; 12]);
        assert_eq!(patches[at..at + 12], second);
    }
}

#[test]
fn channels_last_images_hold_every_pixel() {
    let side = 96;
    let pixels: Vec<f32> = (0..2 * 3 * side * side).map(|i| i as f32).collect();
    let mut out = vec![9.0; pixels.len()];
    nchw_to_nhwc(PixelBatch::Normalized(&pixels), side, (&mut out).into());

    for (at, value) in out.iter().enumerate() {
        let place = at / 3;
        let channel = at % 3;
        let sample = place / (side * side);
        let place = place % (side * side);
        assert_eq!(*value, pixels[(sample * 3 + channel) * side * side + place]);
    }
}

#[test]
fn patches_on_a_device_are_the_cpus() {
    let batch = 3;
    let side = 12;
    let patch = 4;
    let bytes = test_bytes(batch * 3 * side * side);
    let mut buffer = DeviceBuffer::new(&DEVICE, bytes.len(), DType::U8);
    let on_device = buffer.upload_bytes(&bytes);

    for (dtype, percent) in DTYPES
        .into_iter()
        .flat_map(|dtype| [(dtype, 0), (dtype, 50)])
    {
        let visible = visible_patches(batch, 9, percent);
        let rows = batch + visible.host.len();
        let mut patches = HostAndDevice::activations(rows * 48, 1, dtype);
        for where_run in SIDES {
            let pixels = match where_run {
                Side::Host => PixelBatch::Bytes(&bytes),
                Side::Device => PixelBatch::Device(on_device),
            };

            let target = patches.view_mut(where_run);
            extract_patches(pixels, side, patch, visible.view(where_run), target);
        }

        patches.assert_agree("patches", 1.0);
    }
}

#[test]
fn channels_last_images_on_a_device_are_the_cpus() {
    let batch = 2;
    let side = 23;
    let bytes = test_bytes(batch * 3 * side * side);
    let mut buffer = DeviceBuffer::new(&DEVICE, bytes.len(), DType::U8);
    let on_device = buffer.upload_bytes(&bytes);

    for dtype in DTYPES {
        let mut out = HostAndDevice::activations(bytes.len(), 1, dtype);
        nchw_to_nhwc(PixelBatch::Bytes(&bytes), side, out.view_mut(Side::Host));
        nchw_to_nhwc(
            PixelBatch::Device(on_device),
            side,
            out.view_mut(Side::Device),
        );
        out.assert_agree("images", 1.0);
    }
}

//! The driver of the device under test: products of any layout, and uploads of any length.

use cnclip_compute::device::{DType, DeviceBuffer, Gemm, MatrixDesc, run_self_test};
use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use cnclip_compute::tensor::Tensor;

use crate::device_under_test::{DEVICE, DTYPES, assert_device_close, uniform_values, upload};

#[test]
fn the_device_computes_at_all() {
    run_self_test(&DEVICE).unwrap();
}

/// A matrix with a gap between its rows, at the fourth number of its memory: aligned to nothing.
fn unaligned(memory: &DeviceBuffer, shape: (usize, usize), gap: usize) -> MatrixDesc {
    let (rows, cols) = shape;
    let span = memory.as_view();
    MatrixDesc::strided(span.slice(3..span.len()), rows, cols, cols + gap)
}

fn host_matrix(values: &[f32], shape: (usize, usize), gap: usize, turn: bool) -> MatrixView<'_> {
    let (rows, cols) = shape;
    let matrix = MatrixView::strided(&values[3..], rows, cols, cols + gap);
    if turn { matrix.transposed() } else { matrix }
}

#[test]
fn products_of_any_shape_at_any_address_are_the_cpus() {
    let shapes = [
        (1, 1, 1),
        (13, 29, 7),
        (64, 128, 32),
        (127, 1, 61),
        (1, 67, 131),
    ];

    let turns = [(false, false), (false, true), (true, false), (true, true)];
    for ((m, n, k), (turn_a, turn_b)) in shapes
        .into_iter()
        .flat_map(|shape| turns.map(|turn| (shape, turn)))
    {
        for (dtype, target) in [(0, 0), (1, 1), (1, 0)].map(|(a, b)| (DTYPES[a], DTYPES[b])) {
            for gap in [0, 5] {
                let a_side = if turn_a { (k, m) } else { (m, k) };
                let b_side = if turn_b { (n, k) } else { (k, n) };
                let len = |(rows, cols): (usize, usize)| 3 + rows * (cols + gap);
                let a = uniform_values(len(a_side), 1, dtype);
                let b = uniform_values(len(b_side), 2, dtype);
                let da = upload(&a, dtype);
                let db = upload(&b, dtype);
                let found = upload(&vec![0.0; len((m, n))], target);

                let turned = |operand: MatrixDesc, turn: bool| {
                    if turn { operand.transposed() } else { operand }
                };

                let left = turned(unaligned(&da, a_side, gap), turn_a);
                let right = turned(unaligned(&db, b_side, gap), turn_b);
                DEVICE.gemm(&Gemm::new(unaligned(&found, (m, n), gap), left, right));
                let mut expected = vec![0.0; len((m, n))];
                let out = MatrixViewMut::strided(&mut expected[3..], m, n, n + gap);
                gemm_f32(
                    out,
                    Accumulate::Yes,
                    1.0,
                    host_matrix(&a, a_side, gap, turn_a),
                    host_matrix(&b, b_side, gap, turn_b),
                    GemmThreads::One,
                );
                let what = format!("{m}×{n}×{k} {turn_a} {turn_b} {dtype:?} every {gap} more");
                assert_device_close(&what, &found, &expected, target, 2.0);
            }
        }
    }
}

#[test]
fn a_bias_is_added_in_every_format() {
    for (dtype, target) in [(0, 0), (1, 1), (1, 0)].map(|(a, b)| (DTYPES[a], DTYPES[b])) {
        let m = 37;
        let n = 64;
        let k = 48;
        let a = uniform_values(m * k, 1, dtype);
        let b = uniform_values(k * n, 2, dtype);
        let bias = uniform_values(n, 3, target);
        let da = upload(&a, dtype);
        let db = upload(&b, dtype);

        let dbias = upload(&bias, target);
        let found = DeviceBuffer::new(&DEVICE, m * n, target);
        let plain = Gemm::new(
            MatrixDesc::new(found.as_view(), n),
            MatrixDesc::new(da.as_view(), k),
            MatrixDesc::new(db.as_view(), n),
        );

        DEVICE.gemm(&Gemm {
            bias: Some(dbias.as_view().address()),
            ..plain
        });

        let mut right: Vec<f32> = (0..m).flat_map(|_| bias.iter().copied()).collect();
        gemm_f32(
            MatrixViewMut::new(&mut right, n),
            Accumulate::Yes,
            1.0,
            MatrixView::new(&a, k),
            MatrixView::new(&b, n),
            GemmThreads::One,
        );

        assert_device_close("with a bias", &found, &right, target, 2.0);
    }
}

#[test]
fn an_upload_of_any_length_is_complete_and_does_not_borrow_its_source() {
    // More than is staged at once, in lengths that no page ends with.
    let lengths = [1, 63, 1 << 20, (2 << 20) + 1, 18_000_001];
    let mut buffers: Vec<DeviceBuffer> = lengths
        .iter()
        .map(|&len| DeviceBuffer::new(&DEVICE, len, DType::F32))
        .collect();

    for (buffer, len) in buffers.iter_mut().zip(lengths) {
        let mut values: Vec<f32> = (0..len).map(|i| (i % 9973) as f32).collect();
        buffer.as_view_mut().copy_from_host(&values);
        values.fill(-1.0);
    }

    for (buffer, len) in buffers.into_iter().zip(lengths) {
        let found = Tensor::Device(buffer);
        let found = found.to_host();
        assert!(
            found.len() == len
                && found
                    .iter()
                    .enumerate()
                    .all(|(i, v)| *v == (i % 9973) as f32)
        );
    }
}

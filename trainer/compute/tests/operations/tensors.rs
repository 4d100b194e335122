//! Tensors and matrix products of the device: copies between number formats, slices, batches.

use cnclip_compute::device::{DType, DeviceBuffer, Gemm, MatrixDesc};
use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use cnclip_compute::tensor::{Tensor, TensorView};

use crate::device_under_test::{
    DEVICE, DTYPES, assert_device_close, device_memory, round_to_dtype, uniform_values, upload,
    upload_weights,
};

#[test]
fn copies_between_number_formats_round_and_update_the_bf16_copy() {
    for len in [1, 7, 8, 1009] {
        let values = uniform_values(len, 1, DType::F32);
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (DTYPES[a], DTYPES[b])) {
            let source = upload(&values, from);
            let mut target = DeviceBuffer::new(&DEVICE, len, to).with_bf16_copy();
            target.as_view_mut().copy_from(source.as_view());
            let right: Vec<f32> = values
                .iter()
                .map(|&value| round_to_dtype(round_to_dtype(value, from), to))
                .collect();

            assert_eq!(target.as_view().to_host(), right);
            let beside = target.as_view().bf16_copy().unwrap().to_host();
            assert!(
                beside
                    .iter()
                    .zip(&right)
                    .all(|(a, b)| *a == round_to_dtype(*b, DType::Bf16))
            );
        }
    }
}

#[test]
fn slices_of_a_tensor_on_a_device_are_written_in_place() {
    for dtype in DTYPES {
        let mut array: Tensor = device_memory(dtype).alloc_activations(11);
        let values = uniform_values(5, 2, dtype);
        array.slice_mut(3..8).copy_from(TensorView::Host(&values));
        array.update_on_host(|values| values[0] = 2.0);
        let right = [&[2.0, 0.0, 0.0], values.as_slice(), &[0.0; 3]].concat();

        assert_eq!(array.to_host().as_ref(), right);
    }
}

#[test]
fn batched_products_on_a_device_are_the_cpus() {
    let m = 7;
    let n = 24;
    let k = 40;
    let batch = 3;

    for dtype in DTYPES {
        let a = uniform_values(batch * k * 16, 1, dtype);
        let b = uniform_values(batch * n * 48, 2, dtype);
        let old = uniform_values(batch * m * 32, 3, DType::F32);
        let bias = uniform_values(n, 4, dtype);
        let da = upload(&a, dtype);
        let db = upload(&b, dtype);
        let dbias = upload_weights(&bias, dtype);
        let target = upload(&old, DType::F32);

        let wanted = Gemm::new(
            MatrixDesc::strided(target.as_view(), m, n, 32).with_batch_stride(m * 32),
            MatrixDesc::strided(da.as_view(), k, m, 16)
                .with_batch_stride(k * 16)
                .transposed(),
            MatrixDesc::strided(db.as_view(), n, k, 48)
                .with_batch_stride(n * 48)
                .transposed(),
        );

        let bias_at = Some(dbias.as_view().address());
        DEVICE.gemm(&Gemm {
            alpha: 0.5,
            accumulate: true,
            bias: bias_at,
            batch,
            ..wanted
        });

        let mut right = old.clone();
        for i in 0..batch {
            let right = &mut right[i * m * 32..(i + 1) * m * 32];
            for row in right.chunks_exact_mut(32) {
                row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
            }

            gemm_f32(
                MatrixViewMut::strided(right, m, n, 32),
                Accumulate::Yes,
                0.5,
                MatrixView::strided(&a[i * k * 16..], k, m, 16).transposed(),
                MatrixView::strided(&b[i * n * 48..], n, k, 48).transposed(),
                GemmThreads::One,
            );
        }

        assert_device_close("product", &target, &right, DType::F32, 1.0);
    }
}

//! What arrays do by themselves: copies between formats, products.

use cnclip_compute::device::{DType, DeviceBuffer, Gemm, MatrixDesc};
use cnclip_compute::gemm::{Accumulate, GemmThreads, MatrixView, MatrixViewMut, gemm_f32};
use cnclip_compute::tensor::{Tensor, TensorView};

use crate::support::{DEVICE, FORMATS, assert_near, memory, numbers, on_device, rounded, weights};

#[test]
fn numbers_are_copied_between_formats_and_beside() {
    for len in [1, 7, 8, 1009] {
        let values = numbers(len, 1, DType::F32);
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (FORMATS[a], FORMATS[b])) {
            let source = on_device(&values, from);
            let mut target = DeviceBuffer::new(&DEVICE, len, to).with_bf16_copy();
            target.as_view_mut().copy_from(source.as_view());
            let right: Vec<f32> = values
                .iter()
                .map(|&value| rounded(rounded(value, from), to))
                .collect();

            assert_eq!(target.as_view().to_host(), right);
            let beside = target.as_view().bf16_copy().unwrap().to_host();
            assert!(
                beside
                    .iter()
                    .zip(&right)
                    .all(|(a, b)| *a == rounded(*b, DType::Bf16))
            );
        }
    }
}

#[test]
fn arrays_forget_nothing_on_a_device() {
    for format in FORMATS {
        let mut array: Tensor = memory(format).alloc_activations(11);
        let values = numbers(5, 2, format);
        array.slice_mut(3..8).copy_from(TensorView::Host(&values));
        array.update_on_host(|values| values[0] = 2.0);
        let right = [&[2.0, 0.0, 0.0], values.as_slice(), &[0.0; 3]].concat();

        assert_eq!(array.to_host().as_ref(), right);
    }
}

#[test]
fn products_are_those_of_this_machine() {
    let m = 7;
    let n = 24;
    let k = 40;
    let batch = 3;

    for format in FORMATS {
        let a = numbers(batch * k * 16, 1, format);
        let b = numbers(batch * n * 48, 2, format);
        let old = numbers(batch * m * 32, 3, DType::F32);
        let bias = numbers(n, 4, format);
        let da = on_device(&a, format);
        let db = on_device(&b, format);
        let dbias = weights(&bias, format);
        let target = on_device(&old, DType::F32);

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

            let left = MatrixView::strided(&a[i * k * 16..], k, m, 16).transposed();
            let pair = (
                left,
                MatrixView::strided(&b[i * n * 48..], n, k, 48).transposed(),
            );

            gemm_f32(
                MatrixViewMut::strided(right, m, n, 32),
                Accumulate::Yes,
                0.5,
                pair,
                GemmThreads::One,
            );
        }

        assert_near("product", &target, &right, DType::F32, 1.0);
    }
}

//! What arrays do by themselves: copies between formats, products.

use cnclip_compute::device::{Buffer, Format, Operand, Product};
use cnclip_compute::gemm::{Matrix, MatrixMut, Onto, Threads, product};
use cnclip_compute::tensor::{Array, View};

use crate::support::{DEVICE, FORMATS, assert_near, memory, numbers, on_device, rounded, weights};

#[test]
fn numbers_are_copied_between_formats_and_beside() {
    for len in [1, 7, 8, 1009] {
        let values = numbers(len, 1, Format::F32);
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (FORMATS[a], FORMATS[b])) {
            let source = on_device(&values, from);
            let mut target = Buffer::new(&DEVICE, len, to).with_twin();
            target.span_mut().copy_from(source.span());
            let right: Vec<f32> = values
                .iter()
                .map(|&value| rounded(rounded(value, from), to))
                .collect();

            assert_eq!(target.span().download(), right);
            let beside = target.span().rounded().unwrap().download();
            assert!(
                beside
                    .iter()
                    .zip(&right)
                    .all(|(a, b)| *a == rounded(*b, Format::Bf16))
            );
        }
    }
}

#[test]
fn arrays_forget_nothing_on_a_device() {
    for format in FORMATS {
        let mut array: Array = memory(format).array(11);
        let values = numbers(5, 2, format);
        array.part_mut(3..8).copy_from(View::Host(&values));
        array.edit(|values| values[0] = 2.0);
        let right = [&[2.0, 0.0, 0.0], values.as_slice(), &[0.0; 3]].concat();

        assert_eq!(array.read().as_ref(), right);
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
        let old = numbers(batch * m * 32, 3, Format::F32);
        let bias = numbers(n, 4, format);
        let da = on_device(&a, format);
        let db = on_device(&b, format);
        let dbias = weights(&bias, format);
        let target = on_device(&old, Format::F32);

        let wanted = Product::new(
            Operand::strided(target.span(), m, n, 32).every(m * 32),
            Operand::strided(da.span(), k, m, 16)
                .every(k * 16)
                .transposed(),
            Operand::strided(db.span(), n, k, 48)
                .every(n * 48)
                .transposed(),
        );

        let bias_at = Some(dbias.span().address());
        DEVICE.multiply(&Product {
            scale: 0.5,
            add: true,
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

            let left = Matrix::strided(&a[i * k * 16..], k, m, 16).transposed();
            let pair = (
                left,
                Matrix::strided(&b[i * n * 48..], n, k, 48).transposed(),
            );

            product(
                MatrixMut::strided(right, m, n, 32),
                Onto::Add,
                0.5,
                pair,
                Threads::One,
            );
        }

        assert_near("product", &target, &right, Format::F32, 1.0);
    }
}

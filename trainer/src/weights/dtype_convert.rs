//! Values of any type that weight files hold, as f32. Decides nothing about names.

use half::{bf16, f16};
pub(super) use safetensors::Dtype;

/// Turns the bytes of numbers into numbers.
pub(super) type DtypeConverter = fn(&[u8], &mut [f32]);

/// Bytes of one number.
pub(super) fn dtype_size(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// How numbers of a kind are read; `None` for kinds that no weights of ours come in.
pub(super) fn converter_for(dtype: Dtype) -> Option<DtypeConverter> {
    Some(match dtype {
        Dtype::F32 => |bytes, values| convert_each(bytes, values, f32::from_le_bytes),
        Dtype::F64 => {
            |bytes, values| convert_each(bytes, values, |number| f64::from_le_bytes(number) as f32)
        }
        Dtype::F16 => |bytes, values| {
            convert_each(bytes, values, |number| f16::from_le_bytes(number).to_f32())
        },
        Dtype::BF16 => |bytes, values| {
            convert_each(bytes, values, |number| bf16::from_le_bytes(number).to_f32())
        },

        // Integers are counters such as `num_batches_tracked`, exact in f32 up to 2^24.
        Dtype::I64 => {
            |bytes, values| convert_each(bytes, values, |number| i64::from_le_bytes(number) as f32)
        }
        Dtype::I32 => {
            |bytes, values| convert_each(bytes, values, |number| i32::from_le_bytes(number) as f32)
        }
        Dtype::U8 | Dtype::BOOL => {
            |bytes, values| convert_each(bytes, values, |[number]| f32::from(number))
        }

        _ => return None,
    })
}

fn convert_each<const N: usize>(bytes: &[u8], values: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = bytes.as_chunks::<N>();
    values
        .iter_mut()
        .zip(numbers)
        .for_each(|(value, bytes)| *value = number(*bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_kind_are_read() {
        let table: [(Dtype, &[u8]); 8] = [
            (Dtype::F32, &[0, 0, 0x40, 0x40]),
            (Dtype::F64, &[0, 0, 0, 0, 0, 0, 8, 0x40]),
            (Dtype::F16, &[0, 0x42]),
            (Dtype::BF16, &[0x40, 0x40]),
            (Dtype::I64, &[3, 0, 0, 0, 0, 0, 0, 0]),
            (Dtype::I32, &[3, 0, 0, 0]),
            (Dtype::U8, &[3]),
            (Dtype::BOOL, &[3]),
        ];

        for (dtype, bytes) in table {
            let mut values = [0.0; 2];
            converter_for(dtype).unwrap()(&bytes.repeat(2), &mut values);
            assert_eq!(values, [3.0; 2], "{dtype}");
        }

        assert!(converter_for(Dtype::F8_E4M3).is_none());
    }
}

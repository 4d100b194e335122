//! NumPy's file of one array of fp32.
//!
//! # Source
//! The specification of NumPy's format 1.0 (NEP 1).

/// What stands before the numbers, padded so that they begin at a multiple of 64 bytes.
pub(super) fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    const START: usize = 10;
    let told =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let length = (START + told.len() + 1).next_multiple_of(64) - START;
    let mut head = b"\x93NUMPY\x01\x00".to_vec();

    // A shape of two numbers needs less than 64 KiB.
    head.extend((length as u16).to_le_bytes());
    head.extend(format!("{told:<width$}\n", width = length - 1).bytes());
    head
}

/// Numbers as they lie in the file: as in memory, for x86-64 puts the lowest byte first too.
pub(super) fn as_npy_bytes(numbers: &[f32]) -> &[u8] {
    bytemuck::cast_slice(numbers)
}

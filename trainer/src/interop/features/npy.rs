//! NumPy array files of fp32.
//!
//! # Source
//! The specification of NumPy's format 1.0 (NEP 1).

/// The file header, padded so that the values begin at a multiple of 64 bytes.
pub(super) fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    const START: usize = 10;
    let description =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // One more byte for the newline that must end the header.
    let length = (START + description.len() + 1).next_multiple_of(64) - START;
    let mut head = b"\x93NUMPY\x01\x00".to_vec();

    // Version 1.0 has a 16-bit length, which a shape of two dimensions never exceeds.
    head.extend((length as u16).to_le_bytes());
    head.extend(format!("{description:<width$}\n", width = length - 1).bytes());
    head
}

/// The values as the file has them, `<f4`: their bytes in memory, since x86-64 is little-endian.
pub(super) fn as_npy_bytes(numbers: &[f32]) -> &[u8] {
    bytemuck::cast_slice(numbers)
}

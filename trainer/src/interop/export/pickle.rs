//! The little of Python's pickle, protocol 2, that a checkpoint of PyTorch needs. Writes only.

/// The kind of numbers in a tensor's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TensorStorage {
    /// 32-bit floating point.
    Float,
    /// 64-bit integers.
    Long,
}

/// A program for Python's unpickler, which is a machine with a stack.
///
/// # Source
/// The opcodes are those of Python's `pickletools`.
#[derive(Debug)]
pub(super) struct PickleWriter(Vec<u8>);

impl PickleWriter {
    pub(super) fn new() -> Self {
        // PROTO 2, which `torch.save` writes by default.
        Self(vec![0x80, 2])
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    pub(super) fn push_text(&mut self, text: &str) -> &mut Self {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub(super) fn push_int(&mut self, value: usize) -> &mut Self {
        // BININT has 32 bits with a sign; LONG1 is given 8 bytes.
        match i32::try_from(value) {
            Ok(small) => {
                self.0.push(b'J');
                self.0.extend(small.to_le_bytes());
            }
            Err(_) => {
                self.0.extend([0x8A, 8]);
                self.0.extend((value as i64).to_le_bytes());
            }
        }

        self
    }

    /// A dictionary of the keys and values that `items` pushes in turn.
    pub(super) fn push_dict(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        // EMPTY_DICT and MARK: SETITEMS at the end takes all pairs above the mark.
        self.0.extend(b"}(");
        items(self);
        self.0.push(b'u');
        self
    }

    /// The same, as `collections.OrderedDict`.
    pub(super) fn push_ordered_dict(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.push_global("collections", "OrderedDict")
            .0
            .extend(b")R(");
        items(self);
        self.0.push(b'u');
        self
    }

    /// A tensor whose numbers are in the file `data/<number>`.
    pub(super) fn push_tensor(
        &mut self,
        storage: TensorStorage,
        number: usize,
        shape: &[usize],
    ) -> &mut Self {
        let count: usize = shape.iter().product();
        self.push_global("torch._utils", "_rebuild_tensor_v2")
            .push_tuple(|pickle| {
                pickle.push_tuple(|pickle| {
                    let kind = match storage {
                        TensorStorage::Float => "FloatStorage",
                        TensorStorage::Long => "LongStorage",
                    };

                    pickle.push_text("storage").push_global("torch", kind);
                    pickle
                        .push_text(&number.to_string())
                        .push_text("cpu")
                        .push_int(count);
                });

                // The tuple names the storage; no offset; not trained; no hooks.
                pickle.0.push(b'Q');
                pickle.push_int(0);
                pickle
                    .push_int_tuple(shape.iter().copied())
                    .push_int_tuple(contiguous_strides(shape));
                // NEWFALSE, as `requires_grad`.
                pickle.0.push(0x89);
                pickle
                    .push_global("collections", "OrderedDict")
                    .0
                    .extend(b")R");
            });

        // REDUCE calls the function below the tuple.
        self.0.push(b'R');
        self
    }

    fn push_int_tuple(&mut self, values: impl IntoIterator<Item = usize>) -> &mut Self {
        self.push_tuple(|pickle| {
            values
                .into_iter()
                .for_each(|value| _ = pickle.push_int(value))
        })
    }

    fn push_tuple(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.push(b'(');
        items(self);
        self.0.push(b't');
        self
    }

    fn push_global(&mut self, module: &str, name: &str) -> &mut Self {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
        self
    }
}

/// How far apart neighbours lie in each dimension.
fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    (1..=shape.len())
        .map(|dimension| shape[dimension..].iter().product())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_those_of_rows() {
        assert_eq!(contiguous_strides(&[2, 3, 5]), [15, 5, 1]);
        assert_eq!(contiguous_strides(&[]), [0usize; 0]);
    }

    #[test]
    fn numbers_beyond_32_bits_are_written_long() {
        let mut pickle = PickleWriter::new();
        pickle.push_int(7).push_int(1 << 33);
        let right = b"\x80\x02J\x07\0\0\0\x8a\x08\0\0\0\0\x02\0\0\0.";
        assert_eq!(pickle.finish(), right);
    }
}

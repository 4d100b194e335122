//! The little of Python's pickle, protocol 2, that a checkpoint of PyTorch needs. Writes only.

/// The kind of numbers in a tensor's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
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
pub(super) struct Pickle(Vec<u8>);

impl Pickle {
    pub(super) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub(super) fn int(&mut self, value: usize) -> &mut Self {
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
    pub(super) fn dict(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.extend(b"}(");
        items(self);
        self.0.push(b'u');
        self
    }

    /// The same, as `collections.OrderedDict`.
    pub(super) fn ordered_dict(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.global("collections", "OrderedDict").0.extend(b")R(");
        items(self);
        self.0.push(b'u');
        self
    }

    /// A tensor whose numbers are in the file `data/<number>`.
    pub(super) fn tensor(&mut self, storage: Storage, number: usize, shape: &[usize]) -> &mut Self {
        let count: usize = shape.iter().product();
        self.global("torch._utils", "_rebuild_tensor_v2")
            .tuple(|pickle| {
                pickle.tuple(|pickle| {
                    let kind = match storage {
                        Storage::Float => "FloatStorage",
                        Storage::Long => "LongStorage",
                    };

                    pickle.text("storage").global("torch", kind);
                    pickle.text(&number.to_string()).text("cpu").int(count);
                });

                // The tuple names the storage; no offset; not trained; no hooks.
                pickle.0.push(b'Q');
                pickle.int(0);
                pickle.ints(shape.iter().copied()).ints(strides(shape));
                pickle.0.push(0x89);
                pickle.global("collections", "OrderedDict").0.extend(b")R");
            });

        self.0.push(b'R');
        self
    }

    fn ints(&mut self, values: impl IntoIterator<Item = usize>) -> &mut Self {
        self.tuple(|pickle| values.into_iter().for_each(|value| _ = pickle.int(value)))
    }

    fn tuple(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.push(b'(');
        items(self);
        self.0.push(b't');
        self
    }

    fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
        self
    }
}

/// How far apart neighbours lie in each dimension.
fn strides(shape: &[usize]) -> Vec<usize> {
    (1..=shape.len())
        .map(|dimension| shape[dimension..].iter().product())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_those_of_rows() {
        assert_eq!(strides(&[2, 3, 5]), [15, 5, 1]);
        assert_eq!(strides(&[]), [0usize; 0]);
    }

    #[test]
    fn numbers_beyond_32_bits_are_written_long() {
        let mut pickle = Pickle::new();
        pickle.int(7).int(1 << 33);
        let right = b"\x80\x02J\x07\0\0\0\x8a\x08\0\0\0\0\x02\0\0\0.";
        assert_eq!(pickle.finish(), right);
    }
}

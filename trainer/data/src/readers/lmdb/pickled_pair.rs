//! The value of an entry of `pairs`: a pickled `(image_id, text_id, text)`.

use serde_pickle::DeOptions;

use crate::shard::ItemId;

/// Ids of image and text, and the text.
pub type PickledPair = (ItemId, ItemId, String);

/// Numbers and texts that a pickle may make: the parts of a pair, and those that are used twice.
const MAX_PARTS: usize = 8;
/// Digits of a number that is written as text.
const MAX_DIGITS: usize = 32;

/// Parses the value of an entry of `pairs`.
///
/// # Errors
/// If it is none; the message does not say where it is stored.
pub fn parse_pickled_pair(bytes: &[u8]) -> Result<PickledPair, String> {
    check_opcodes(bytes)?;
    serde_pickle::from_slice(bytes, DeOptions::new()).map_err(|error| error.to_string())
}

/// Refuses a pickle of anything but one tuple of numbers and texts. Sixty bytes can double an object until no memory
/// is left, or nest objects until no stack is left, before the decoder knows that it is no pair.
fn check_opcodes(pickle: &[u8]) -> Result<(), String> {
    let mut rest = pickle;
    let mut parts = 0;
    let mut tuples = 0;

    loop {
        let Some((&opcode, arguments)) = rest.split_first() else {
            return Err(ENDS_EARLY.into());
        };

        let length = match opcode {
            b'.' => return Ok(()),
            // The protocol, a frame, a mark, and the notes of objects that are used twice.
            0x80 => Some(1),
            0x95 => Some(8),
            b'(' | 0x94 => Some(0),
            b'q' | b'h' => Some(1),
            b'r' | b'j' => Some(4),
            b'p' | b'g' => line_length(arguments, MAX_DIGITS),
            // A tuple.
            b't' | 0x87 => Some(0),
            // Numbers.
            b'K' => Some(1),
            b'M' => Some(2),
            b'J' => Some(4),
            0x8A => prefixed_length(arguments, 1),
            b'I' | b'L' => line_length(arguments, MAX_DIGITS),
            // Texts.
            b'U' | 0x8C => prefixed_length(arguments, 1),
            b'T' | b'X' => prefixed_length(arguments, 4),
            0x8D => prefixed_length(arguments, 8),
            b'S' | b'V' => line_length(arguments, usize::MAX),
            _ => return Err(format!("its opcode {opcode:#04x} makes no pair")),
        };

        match opcode {
            b't' | 0x87 | b'(' => tuples += 1,
            b'K' | b'M' | b'J' | 0x8A | b'I' | b'L' => parts += 1,
            b'U' | 0x8C | b'T' | b'X' | 0x8D | b'S' | b'V' | b'h' | b'j' | b'g' => parts += 1,
            _ => {}
        }

        // A mark and the tuple of what follows it.
        if parts > MAX_PARTS || tuples > 2 {
            return Err("it has more parts than a pair".into());
        }

        rest = length
            .and_then(|length| arguments.get(length..))
            .ok_or(ENDS_EARLY)?;
    }
}

const ENDS_EARLY: &str = "it ends early";

/// The length of a line with its end; `None` if it is longer than allowed.
fn line_length(arguments: &[u8], max_length: usize) -> Option<usize> {
    let end = arguments.iter().position(|byte| *byte == b'\n')?;
    (end <= max_length).then_some(end + 1)
}

/// The length of bytes behind their length, which takes so many bytes itself.
fn prefixed_length(arguments: &[u8], prefix: usize) -> Option<usize> {
    let digits = arguments.get(..prefix)?.iter().rev();
    let length = digits.fold(0u64, |length, &byte| length << 8 | u64::from(byte));
    usize::try_from(length).ok()?.checked_add(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(pickle: &[u8]) -> String {
        parse_pickled_pair(pickle).unwrap_err()
    }

    /// `pickle.dumps((17, "a.jpg", "猫"), protocol)`
    const PROTOCOLS: [&[u8]; 5] = [
        b"(I17\nVa.jpg\np0\nV\\u732b\np1\ntp2\n.",
        b"(K\x11X\x05\0\0\0a.jpgq\0X\x03\0\0\0\xe7\x8c\xabq\x01tq\x02.",
        b"\x80\x02K\x11X\x05\0\0\0a.jpgq\0X\x03\0\0\0\xe7\x8c\xabq\x01\x87q\x02.",
        b"\x80\x03K\x11X\x05\0\0\0a.jpgq\0X\x03\0\0\0\xe7\x8c\xabq\x01\x87q\x02.",
        b"\x80\x04\x95\x14\0\0\0\0\0\0\0K\x11\x8c\x05a.jpg\x94\x8c\x03\xe7\x8c\xab\x94\x87\x94.",
    ];

    #[test]
    fn a_pair_of_any_protocol_is_read() {
        let right = (
            ItemId::Number(17),
            ItemId::Name("a.jpg".into()),
            "猫".to_owned(),
        );

        for pickle in PROTOCOLS {
            assert_eq!(parse_pickled_pair(pickle).as_ref(), Ok(&right));
        }

        // One object for both ids: the second is a reference to the first.
        let twice = b"\x80\x02X\x01\0\0\0aq\0h\0X\x01\0\0\0bq\x01\x87q\x02.";
        let (image, text, _) = parse_pickled_pair(twice).unwrap();
        assert_eq!(image, text);
    }

    #[test]
    fn a_pickle_that_is_cut_off_is_an_error() {
        for pickle in PROTOCOLS {
            for length in 0..pickle.len() {
                assert!(!error_of(&pickle[..length]).is_empty());
            }
        }
    }

    #[test]
    fn what_would_take_all_memory_or_all_of_the_stack_is_refused() {
        let doubled = [&b"K\x01"[..], &b"2\x86".repeat(60), b"."].concat();
        let nested = [&b")"[..], &b"\x85".repeat(1_000_000), b"."].concat();
        let digits = [&b"L"[..], &b"9".repeat(1_000_000), b"L\n."].concat();
        for pickle in [doubled, nested, b"(".repeat(1_000_000), digits] {
            assert!(!error_of(&pickle).is_empty());
        }

        assert_eq!(error_of(b"X\xff\xff\xff\x7fabc."), "it ends early");
    }
}

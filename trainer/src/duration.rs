//! Durations as text for people: as coarse as they are long.

/// A duration in its two largest units.
///
/// # Units
/// Seconds
pub(crate) fn format_duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_as_coarse_as_it_is_long() {
        for (seconds, expected) in [
            (7, "7 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (104_400, "29 h 0 min"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(format_duration(seconds), expected);
        }
    }
}

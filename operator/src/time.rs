//! Formats of times and durations. Reads no clock.

use k8s_openapi::jiff::Timestamp;

/// RFC 3339 with whole seconds, as the Kubernetes API formats times.
pub(crate) fn to_rfc3339(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

/// Seconds since an RFC 3339 time; 0 if it cannot be parsed or lies in the future.
pub(crate) fn seconds_since(time: &str, now: Timestamp) -> i64 {
    time.parse::<Timestamp>()
        // Clocks of nodes differ, and the status is editable: neither must lead to a negative age.
        .map_or(0, |time| (now.as_second() - time.as_second()).max(0))
}

/// The two largest non-zero units, such as `1d3h` or `5m12s`.
pub(crate) fn format_duration(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = UNITS
        .iter()
        .position(|(length, _)| seconds >= *length)
        .unwrap_or(3);

    let mut rest = seconds.max(0);
    let mut words = String::new();
    for (length, unit) in UNITS.iter().skip(first).take(2) {
        let count = rest / length;
        rest %= length;
        if count > 0 || words.is_empty() {
            words += &format!("{count}{unit}");
        }
    }

    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_say_how_long() {
        let rows = [
            (-3, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (312, "5m12s"),
            (3_661, "1h1m"),
            (97_205, "1d3h"),
        ];

        for (seconds, words) in rows {
            assert_eq!(format_duration(seconds), words);
        }
    }

    #[test]
    fn a_time_that_cannot_be_read_is_now() {
        let now = Timestamp::from_second(1_000).unwrap();
        let rows = [
            ("1970-01-01T00:10:00Z", 400),
            ("1970-01-01T01:00:00Z", 0),
            ("yesterday", 0),
        ];

        for (time, seconds) in rows {
            assert_eq!(seconds_since(time, now), seconds, "{time}");
        }
    }
}

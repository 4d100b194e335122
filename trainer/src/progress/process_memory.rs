//! What the kernel says of this process's memory. Never fails: what cannot be read is left out.

/// The memory this process holds now.
///
/// # Units
/// Bytes
pub fn resident_bytes() -> Option<i64> {
    parse_kib_field(&read_proc_status()?, "VmRSS:")
}

/// The most memory this process has held.
///
/// # Units
/// Bytes
pub fn peak_resident_bytes() -> Option<i64> {
    // The kernel's high-water mark: readings of VmRSS would miss peaks between two reports.
    parse_kib_field(&read_proc_status()?, "VmHWM:")
}

fn read_proc_status() -> Option<String> {
    std::fs::read_to_string("/proc/self/status").ok()
}

fn parse_kib_field(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.trim().strip_suffix(" kB")?;
    let kibibytes: i64 = number.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name_and_counted_in_bytes() {
        let status = "Name:\tcnclip\nVmHWM:\t  204800 kB\nVmRSS:\t     12 kB\nThreads:\t3\n";
        for (name, bytes) in [
            ("VmHWM:", Some(209_715_200)),
            ("VmRSS:", Some(12_288)),
            ("VmSwap:", None),
        ] {
            assert_eq!(parse_kib_field(status, name), bytes, "{name}");
        }

        assert_eq!(parse_kib_field(status, "Threads:"), None, "not a size");
    }

    #[test]
    fn this_process_never_holds_more_than_its_peak() {
        // One reading: between two of them other threads give memory back.
        let status = read_proc_status().unwrap();
        let [now, peak] = ["VmRSS:", "VmHWM:"].map(|name| parse_kib_field(&status, name).unwrap());
        assert!(now > 0 && peak >= now, "{now} of {peak}");
        assert!(resident_bytes() > Some(0) && peak_resident_bytes() > Some(0));
    }
}

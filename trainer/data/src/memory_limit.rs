//! How much memory this process may use: the limit of its control groups, or else the machine's memory. What cannot
//! be read is no limit.
//!
//! What is larger is refused before it is taken: the kernel grants memory that is not there, and ends the process
//! when it is written to; where it refuses, the process aborts. Neither says what was to be held.

use std::fs;

use crate::error::{Error, Result};

const GIBIBYTE: f64 = (1_u64 << 30) as f64;

/// The memory this process may use.
///
/// # Units
/// Bytes
///
/// # Examples
/// ```
/// if let Some(bytes) = cnclip_data::memory_limit::available_memory() {
///     println!("{} MiB", bytes >> 20);
/// }
/// ```
pub fn available_memory() -> Option<u64> {
    find_memory_limit(&|path| fs::read_to_string(path).ok())
}

/// Refuses what is larger than the memory of this process. Not what is larger than what is left of it: that changes.
///
/// # Errors
/// With `what` was to be held, its size, and `advice`.
///
/// # Examples
/// ```
/// use cnclip_data::memory_limit::ensure_available;
///
/// ensure_available(1 << 10, "a text", "shorten it").unwrap();
/// let error = ensure_available(1 << 60, "the features of a data set", "score a part of it").unwrap_err();
/// assert!(error.to_string().starts_with("the features of a data set would take 1073741824.0 GiB of memory"));
/// assert!(error.to_string().ends_with("GiB. Raise the limit, or score a part of it."));
/// ```
pub fn ensure_available(bytes: u64, what: &str, advice: &str) -> Result<()> {
    match available_memory() {
        Some(available) if bytes > available => Err(Error::Config(format!(
            "{what} would take {:.1} GiB of memory, and this process may have {:.1} GiB. Raise the limit, or \
             {advice}.",
            bytes as f64 / GIBIBYTE,
            available as f64 / GIBIBYTE
        ))),
        _ => Ok(()),
    }
}

/// [`available_memory`] with the system's files read by `read`.
fn find_memory_limit(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let limits = groups
        .lines()
        .flat_map(cgroup_limit_files)
        .filter_map(|file| parse_cgroup_limit(&read(&file)?));

    // A group's limit holds for all groups in it, so the tightest on the way to the root counts.
    limits
        .min()
        .or_else(|| parse_meminfo_total(&read("/proc/meminfo")?))
}

/// The files with the limits of one line of /proc/self/cgroup: those of a group and of all it is in.
/// In a container of its own the group is the root, whatever it is called outside.
fn cgroup_limit_files(line: &str) -> Vec<String> {
    // `hierarchy:controllers:path`; at most three parts, because a path may hold colons itself.
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };

    // Version 2 lists no controllers; version 1 mounts a hierarchy for each.
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };

    let ends = group
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([group.len()]);

    ends.map(|end| format!("{root}{}/{file}", &group[..end]))
        .collect()
}

/// "No limit" is the word `max` in version 2, and a number larger than any memory in version 1.
fn parse_cgroup_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < 1 << 60)
}

fn parse_meminfo_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;

    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    // The kernel writes kB and counts in units of 1024 bytes.
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files by path, with what they say.
    type Files<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn the_tightest_group_decides_and_else_the_machine() {
        let machine = ("/proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n");
        let groups = "/proc/self/cgroup";
        let rows: [(&str, Files<'_>, Option<u64>); 6] = [
            ("nothing can be read", &[], None),
            ("no group", &[machine], Some(2 << 20)),
            (
                "version 2, the pod's group is tighter than its container's",
                &[
                    (groups, "0::/pod/trainer\n"),
                    ("/sys/fs/cgroup/pod/trainer/memory.max", "9000\n"),
                    ("/sys/fs/cgroup/pod/memory.max", "7000\n"),
                    machine,
                ],
                Some(7000),
            ),
            (
                "version 2, the container's own root",
                &[
                    (groups, "0::/\n"),
                    ("/sys/fs/cgroup/memory.max", "5000\n"),
                    machine,
                ],
                Some(5000),
            ),
            (
                "version 1, named from outside and mounted as the root",
                &[
                    (groups, "5:cpu,cpuacct:/pods/x\n4:memory:/pods/x\n"),
                    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
                    machine,
                ],
                Some(4096),
            ),
            (
                "groups without a limit",
                &[
                    (groups, "0::/\n4:memory:/\n"),
                    ("/sys/fs/cgroup/memory.max", "max\n"),
                    (
                        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "9223372036854771712\n",
                    ),
                    machine,
                ],
                Some(2 << 20),
            ),
        ];

        for (name, there, expected) in rows {
            let read = |path: &str| {
                let found = there.iter().find(|(file, _)| *file == path);
                found.map(|(_, text)| (*text).to_owned())
            };

            assert_eq!(find_memory_limit(&read), expected, "{name}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_memory() > Some(1 << 20));
    }
}

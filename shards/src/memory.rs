//! How much memory a program can still take.

/// Bytes of memory that a program can still take; where the system does not say, nothing.
pub fn available_bytes() -> Option<u64> {
    let meminfo = fs_err::read_to_string("/proc/meminfo").ok()?;
    let system = available_by(&meminfo)?;
    // A container may be allowed less than the machine has.
    let number = |file: &str| {
        let text = fs_err::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let container = match (number("memory.max"), number("memory.current")) {
        (Some(most), Some(used)) => most.saturating_sub(used),
        _ => u64::MAX,
    };
    Some(system.min(container))
}

fn available_by(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_it_in_kibibytes() {
        let meminfo = "MemTotal:       24689764 kB\nMemAvailable:   20971520 kB\n";
        assert_eq!(available_by(meminfo), Some(20 << 30));
        assert_eq!(available_by("MemTotal: 1 kB"), None);
    }
}

//! How much memory a process can still take: by the system, and by the control groups that it is in.

use std::path::{Path, PathBuf};

/// Bytes that can still be taken: `MemAvailable` of proc(5), or what the control groups of this process leave (a
/// container, a job of a batch system), whichever is less. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    available_below(Path::new("/"))
}

/// [`available_bytes`] of the system whose root folder is `root`.
fn available_below(root: &Path) -> Option<u64> {
    let read = |path: &str| fs_err::read_to_string(root.join(path)).ok();
    let system = field(&read("proc/meminfo")?, "MemAvailable:")? << 10;
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let left = groups.lines().flat_map(|line| folders(root, line));
    let left = left.filter_map(|(folder, names)| left_in(&folder, names));
    Some(left.fold(system, u64::min))
}

/// Files of a control group: the limit, what is in use, and of its `memory.stat` what is only cache of files.
type Names = [&'static str; 3];
const SECOND: Names = ["memory.max", "memory.current", "inactive_file"];
const FIRST: Names = [
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
];

/// The folders of a line of `/proc/self/cgroup`, `number:controllers:/path`, from the group itself up to the root: each
/// of them has a limit. Inside a container the path may be that of the host: then the root alone is there.
fn folders(root: &Path, line: &str) -> Vec<(PathBuf, Names)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (mount, names) = match controllers {
        "" => ("sys/fs/cgroup", SECOND),
        controllers if controllers.split(',').any(|name| name == "memory") => ("sys/fs/cgroup/memory", FIRST),
        _ => return Vec::new(),
    };
    let path = Path::new(path.trim_start_matches('/'));
    path.ancestors()
        .map(|part| (root.join(mount).join(part), names))
        .collect()
}

/// What a control group's limit leaves; files that are only cached count as free.
fn left_in(folder: &Path, [limit, usage, cached]: Names) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        let text = fs_err::read_to_string(folder.join(file)).ok()?;
        text.trim().parse().ok()
    };
    let (limit, usage) = (number(limit)?, number(usage)?);
    let stat = fs_err::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let used = usage.saturating_sub(field(&stat, cached).unwrap_or(0));
    Some(limit.saturating_sub(used))
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines.find(|line| line.clone().next() == Some(name))?;
    line.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_tightest_limit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(available_below(root), None);
        let meminfo = "MemTotal:       24689764 kB\nMemAvailable:   20971520 kB\n";
        write(root, &[("proc/meminfo", meminfo)]);
        assert_eq!(available_below(root), Some(20 << 30));
        write(
            root,
            &[
                ("proc/self/cgroup", "0::/jobs/one\n"),
                ("sys/fs/cgroup/jobs/memory.max", "1000000"),
                ("sys/fs/cgroup/jobs/memory.current", "900000"),
                ("sys/fs/cgroup/jobs/memory.stat", "anon 1\ninactive_file 300000\n"),
                ("sys/fs/cgroup/jobs/one/memory.max", "max"),
                ("sys/fs/cgroup/jobs/one/memory.current", "1"),
            ],
        );
        assert_eq!(available_below(root), Some(400_000));
        write(
            root,
            &[
                ("proc/self/cgroup", "7:cpu:/x\n5:memory:/of/the/host\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "6000"),
            ],
        );
        assert_eq!(available_below(root), Some(0));
    }
}

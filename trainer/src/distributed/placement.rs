//! How many threads a process should use, so that the processes of one machine use its cores once.

use std::hash::Hasher as _;
use std::thread::available_parallelism;

use xxhash_rust::xxh64::Xxh64;

use super::Group;

/// Bits of a hash that a sum of f64 carries exactly.
const EXACT_BITS: u32 = 53;

/// Threads of this process: the cores that it may use, divided by the processes that may use the same ones.
///
/// A launcher binds processes to cores of their own (mpirun does so for two), to sockets, or not at all; processes that
/// may use the same cores of the same machine share them.
pub fn threads_of_rank(group: &mut (impl Group + ?Sized)) -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    let (rank, mine) = (group.rank(), place());
    let mut places = vec![0.0; group.ranks()];
    places[rank] = mine;
    group.sum(&mut places);
    share_of(cores, &places, mine)
}

fn share_of(cores: usize, places: &[f64], mine: f64) -> usize {
    let sharing = places.iter().filter(|place| **place == mine).count();
    (cores / sharing.max(1)).max(1)
}

/// A number for this machine and the cores of it that this process may use.
fn place() -> f64 {
    let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let cores = status.lines().find(|line| line.starts_with("Cpus_allowed_list"));
    let mut hash = Xxh64::new(0);
    hash.write(read("/proc/sys/kernel/hostname").as_bytes());
    hash.write(read("/proc/sys/kernel/random/boot_id").as_bytes());
    hash.write(cores.unwrap_or_default().as_bytes());
    (hash.digest() >> (u64::BITS - EXACT_BITS)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Single;

    #[test]
    fn processes_of_the_same_cores_share_them() {
        assert_eq!(share_of(8, &[3.0, 3.0, 4.0, 4.0], 3.0), 4);
        assert_eq!(share_of(8, &[1.0, 2.0], 1.0), 8);
        assert_eq!(share_of(2, &[1.0; 5], 1.0), 1);
        assert_eq!(
            threads_of_rank(&mut Single),
            available_parallelism().map_or(1, usize::from)
        );
    }
}

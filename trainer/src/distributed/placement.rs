//! How much of its machine a process should use, so that the processes of one machine use its cores and memory once.

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
    let status = read("/proc/self/status");
    let mine = status.lines().find(|line| line.starts_with("Cpus_allowed_list"));
    share_of(cores, processes_like(group, mine.unwrap_or_default()))
}

/// How many processes run on the machine of this one: they share its memory.
pub fn processes_of_machine(group: &mut (impl Group + ?Sized)) -> usize {
    processes_like(group, "")
}

fn share_of(cores: usize, processes: usize) -> usize {
    (cores / processes.max(1)).max(1)
}

/// How many processes of this one's machine say the same `place` as it does.
fn processes_like(group: &mut (impl Group + ?Sized), place: &str) -> usize {
    let mut hash = Xxh64::new(0);
    hash.write(read("/proc/sys/kernel/hostname").as_bytes());
    hash.write(read("/proc/sys/kernel/random/boot_id").as_bytes());
    hash.write(place.as_bytes());
    let mine = (hash.digest() >> (u64::BITS - EXACT_BITS)) as f64;
    let mut places = vec![0.0; group.ranks()];
    places[group.rank()] = mine;
    group.sum(&mut places);
    count_of(&places, mine)
}

fn count_of(places: &[f64], mine: f64) -> usize {
    places.iter().filter(|place| **place == mine).count()
}

fn read(path: &str) -> String {
    fs_err::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Single;

    #[test]
    fn processes_of_the_same_cores_share_them() {
        assert_eq!(share_of(8, count_of(&[3.0, 3.0, 4.0, 4.0], 3.0)), 4);
        assert_eq!(share_of(8, count_of(&[1.0, 2.0], 1.0)), 8);
        assert_eq!(share_of(2, count_of(&[1.0; 5], 1.0)), 1);
        assert_eq!(processes_of_machine(&mut Single), 1);
        assert_eq!(
            threads_of_rank(&mut Single),
            available_parallelism().map_or(1, usize::from)
        );
    }
}

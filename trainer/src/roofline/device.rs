//! The devices that are planned for, by their data sheets, and what share of it kernels are taken to reach.

use super::Work;
use crate::config::Precision;
use crate::ops::profile::Op;

/// A device's peaks, per second.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its name.
    pub name: &'static str,
    /// Bytes of memory.
    pub memory: f64,
    /// Bytes moved to and from memory.
    pub bandwidth: f64,
    /// Bytes moved between the L2 cache and the multiprocessors: 64 bytes a clock for each of these.
    pub cache_bandwidth: f64,
    /// f32 operations outside of tensor cores.
    pub f32_flops: f64,
    /// bf16 operations of the tensor cores, dense.
    pub tensor_flops: f64,
    /// Bytes a second that one GPU sends to its neighbours in the node.
    pub link: f64,
    /// Share of [`Device::tensor_flops`] that matrix products are taken to reach: an assumption.
    pub matmul_share: f64,
}

/// A100 SXM, 80 GB.
pub const A100: Device = Device {
    name: "A100",
    memory: 80e9,
    bandwidth: 2.039e12,
    cache_bandwidth: 108.0 * 64.0 * 1.41e9,
    f32_flops: 19.5e12,
    tensor_flops: 312e12,
    link: 300e9,
    matmul_share: 0.65,
};

/// H100 SXM, 80 GB.
pub const H100: Device = Device {
    name: "H100",
    memory: 80e9,
    bandwidth: 3.35e12,
    cache_bandwidth: 132.0 * 64.0 * 1.755e9,
    f32_flops: 66.9e12,
    tensor_flops: 989e12,
    link: 450e9,
    matmul_share: 0.55,
};

/// Share of the bandwidths that kernels are taken to reach: an assumption.
pub(super) const BANDWIDTH_SHARE: f64 = 0.85;
/// Share of the f32 peak: an assumption. Additions that fuse with no multiplication already halve it, and a butterfly has
/// twice as many of them as multiplications.
pub(super) const F32_SHARE: f64 = 0.4;
/// Share of the link that a ring of all-reduce is taken to reach: an assumption.
pub(super) const LINK_SHARE: f64 = 0.75;

impl Device {
    /// The device that a driver calls `name`, if it is one of these.
    pub fn called(name: &str) -> Option<Self> {
        [A100, H100].into_iter().find(|device| {
            let hopper = device.name == H100.name && name.contains("H200");
            name.contains(device.name) || hopper
        })
    }

    /// Operations a second of its matrix products at most, in an arithmetic.
    pub fn peak(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32_flops,
            // Half of bf16, on both.
            Precision::Tf32 => self.tensor_flops / 2.0,
            Precision::Bf16 => self.tensor_flops,
        }
    }

    /// Seconds that a kernel takes at least: of its bytes to memory, its bytes to the cache, and its operations.
    pub fn floor(&self, work: Work) -> f64 {
        let memory = work.memory_bytes() as f64 / self.bandwidth;
        let cache = work.bytes() as f64 / self.cache_bandwidth;
        let tensor = work.tensor_flops as f64 / self.tensor_flops;
        memory
            .max(cache)
            .max(tensor)
            .max(work.flops as f64 / self.f32_flops)
    }

    /// The same of commands of a kind: matrix products run at their own peak.
    pub fn floor_of_kind(&self, op: Op, work: Work, precision: Precision) -> f64 {
        if op == Op::MatMul {
            let memory = work.memory_bytes() as f64 / self.bandwidth;
            memory.max(work.flops as f64 / self.peak(precision))
        } else {
            self.floor(work)
        }
    }

    /// Seconds that it is expected to take.
    pub fn expected(&self, work: Work) -> f64 {
        let memory = work.memory_bytes() as f64 / (BANDWIDTH_SHARE * self.bandwidth);
        let cache = work.bytes() as f64 / (BANDWIDTH_SHARE * self.cache_bandwidth);
        memory
            .max(cache)
            .max(work.tensor_flops as f64 / (self.matmul_share * self.tensor_flops))
            .max(work.flops as f64 / (F32_SHARE * self.f32_flops))
    }

    /// What bounds it: memory, the cache, tensor cores, or other arithmetic.
    pub fn bound(&self, work: Work) -> &'static str {
        let times = [
            (
                "memory",
                work.memory_bytes() as f64 / (BANDWIDTH_SHARE * self.bandwidth),
            ),
            (
                "cache",
                work.bytes() as f64 / (BANDWIDTH_SHARE * self.cache_bandwidth),
            ),
            ("f32", work.flops as f64 / (F32_SHARE * self.f32_flops)),
            (
                "tensor",
                work.tensor_flops as f64 / (self.matmul_share * self.tensor_flops),
            ),
        ];
        let longest = times.into_iter().reduce(|a, b| if b.1 > a.1 { b } else { a });
        longest.map_or("", |(name, _)| name)
    }
}

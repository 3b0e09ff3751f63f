//! Philox4x32-10, the counter-based generator behind every random number of the project.
//!
//! A number is a pure function of (seed, stream, sample, step, index), so no result depends on batch size, worker
//! count, rank count or thread timing, and there is no generator state to save (Salmon et al. 2011, "Parallel random
//! numbers: as easy as 1, 2, 3").

mod normal;

use std::f64::consts::TAU;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Turns a 32-bit word into a fraction of one.
const WORD_SCALE: f64 = 1.0 / 4_294_967_296.0;

/// What a number is drawn for: two purposes never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// The starting noise of a sample, step 0.
    InitialNoise = 1,
    /// The noise of a sampler step; step = original timestep of the step being left.
    SamplerNoise = 2,
    /// VAE posterior noise; step = epoch (0 when baked), bit 31 set for the mirrored view.
    PosteriorNoise = 3,
    /// The order of an epoch; sample = record id, step = epoch.
    Shuffle = 4,
    /// The training timestep; sample = record id, step = epoch.
    Timestep = 5,
    /// The training noise; sample = record id, step = epoch.
    TrainingNoise = 6,
    /// Label dropping for classifier-free guidance; sample = record id, step = epoch.
    LabelDrop = 7,
    /// The choice between the two mirror views; sample = record id, step = epoch.
    Flip = 8,
    /// Random labels of generated samples.
    SampledLabel = 9,
    /// Weight initialisation; sample = ordinal of the tensor in name order.
    WeightInit = 10,
    /// Subsets drawn by the evaluation.
    EvalSubsample = 11,
    /// The built-in demo images; sample = image id.
    Demo = 12,
}

/// The generator for one seed.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
        }
    }

    /// Four words at a position; element `i` of a tensor (C, h, w order) lies in block `i / 4`.
    #[inline]
    pub fn block(&self, stream: Stream, sample: u64, step: u32, block: u32) -> [u32; 4] {
        let high = ((stream as u32) << 24) | ((sample >> 32) as u32 & 0x00FF_FFFF);
        philox4x32_10([block, step, sample as u32, high], self.key)
    }

    /// The word with number `index`.
    #[inline]
    pub fn word(&self, stream: Stream, sample: u64, step: u32, index: u32) -> u32 {
        self.block(stream, sample, step, index / 4)[(index % 4) as usize]
    }

    /// A uniform number in `[0, 1)` with 32 bits.
    pub fn uniform(&self, stream: Stream, sample: u64, step: u32, index: u32) -> f64 {
        f64::from(self.word(stream, sample, step, index)) * WORD_SCALE
    }

    /// A uniform integer in `0..n`, from the word with number `index`.
    pub fn below(&self, stream: Stream, sample: u64, step: u32, index: u32, n: u32) -> u32 {
        ((u64::from(self.word(stream, sample, step, index)) * u64::from(n)) >> 32) as u32
    }

    /// Fills `out` with standard normals, elements `0..out.len()` (Box and Muller, computed in f64); the same
    /// bits on every processor with one mathematics library.
    pub fn fill_normal(&self, stream: Stream, sample: u64, step: u32, out: &mut [f32]) {
        let high = ((stream as u32) << 24) | ((sample >> 32) as u32 & 0x00FF_FFFF);
        let filled = normal::fill(self.key, step, sample as u32, high, out);
        for (block, chunk) in out[filled..].chunks_mut(4).enumerate() {
            let normals = normals(self.block(stream, sample, step, (filled / 4 + block) as u32));
            for (value, normal) in chunk.iter_mut().zip(normals) {
                *value = normal as f32;
            }
        }
    }
}

/// Two Box-Muller pairs from four words.
fn normals(words: [u32; 4]) -> [f64; 4] {
    let pair = |w0: u32, w1: u32| {
        let radius = (-2.0 * ((f64::from(w0) + 1.0) * WORD_SCALE).ln()).sqrt();
        let (sin, cos) = (TAU * (f64::from(w1) * WORD_SCALE)).sin_cos();
        (radius * cos, radius * sin)
    };
    let (a, b) = pair(words[0], words[1]);
    let (c, d) = pair(words[2], words[3]);
    [a, b, c, d]
}

/// Ten rounds of Philox on one counter.
#[inline]
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round != 0 {
            key[0] = key[0].wrapping_add(WEYL[0]);
            key[1] = key[1].wrapping_add(WEYL[1]);
        }
        let product0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let product1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_known_answers() {
        let ones = u32::MAX;
        let cases = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [ones; 4],
                [ones; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn counter_layout_is_fixed() {
        let rng = Philox::new(0);
        let words = [0x9102_23a1, 0x2994_6dd3, 0x621a_deee, 0xde65_3caf];
        assert_eq!(rng.block(Stream::InitialNoise, 0, 0, 0), words);
        let rng = Philox::new(0x1234_5678_9abc_def0);
        let words = [0x2c01_bf33, 0x80bf_9d54, 0x00cd_2467, 0x91e2_31ee];
        assert_eq!(rng.block(Stream::SamplerNoise, 5_000_000_000, 999, 1023), words);
    }

    #[test]
    fn normals_match_the_golden_values() {
        let mut out = vec![0f32; 4096];
        Philox::new(0).fill_normal(Stream::InitialNoise, 0, 0, &mut out);
        let golden = [
            0.557_536_069,
            0.908_804_534,
            0.940_038_850,
            -1.017_155_796,
            -0.045_713_520,
            0.207_258_950,
            -0.714_138_903,
            -1.241_467_037,
        ];
        for (value, expected) in out.iter().zip(golden) {
            assert!((f64::from(*value) - expected).abs() < 1e-7, "{value} {expected}");
        }
        let mean = out.iter().map(|&v| f64::from(v)).sum::<f64>() / 4096.0;
        let variance = out.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / 4096.0;
        assert!((mean - 0.017_966_554).abs() < 1e-8, "{mean}");
        assert!((variance - 0.992_329_386).abs() < 1e-7, "{variance}");
        Philox::new(42).fill_normal(Stream::SamplerNoise, 7, 999, &mut out[..4]);
        for (value, expected) in out
            .iter()
            .zip([0.169_675_944, -0.476_033_073, 0.647_820_907, 0.307_265_009])
        {
            assert!((f64::from(*value) - expected).abs() < 1e-7, "{value} {expected}");
        }
    }

    #[test]
    fn timesteps_match_the_golden_values() {
        let rng = Philox::new(0);
        let timesteps: Vec<u32> = (0..8)
            .map(|sample| rng.below(Stream::Timestep, sample, 0, 0, 1000))
            .collect();
        assert_eq!(timesteps, [828, 596, 468, 711, 787, 161, 694, 235]);
    }
}

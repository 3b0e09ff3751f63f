//! Standard normals, many at a time: bit for bit those of the scalar formula, at a tenth of its time.
//!
//! The formula is Box and Muller's in f64, rounded to f32. Here logarithm, sine and cosine are polynomials (those of
//! fdlibm) on vectors; they and the system's differ by a few units of the last place of f64. A result that lies so near
//! to the middle between two f32 numbers that such a difference could decide its rounding is computed by the formula.
#![expect(
    clippy::excessive_precision,
    reason = "the polynomials' digits are those of fdlibm"
)]

use std::f64::consts::{LN_2, TAU};

use super::{MULTIPLIERS, ROUNDS, WEYL, WORD_SCALE, normals};

/// Counters whose words are computed together, in registers.
const LANES: usize = 8;
/// Counters of one round of work: enough that the vectors of one step do not wait for each other.
const BLOCKS: usize = 8 * LANES;
/// Normals of them.
const GROUP: usize = 4 * BLOCKS;

/// Fills `out` with the normals of the counters `[0.., step, sample, high]`, in whole groups; answers how many numbers.
pub(super) fn fill(key: [u32; 2], step: u32, sample: u32, high: u32, out: &mut [f32]) -> usize {
    struct Work<'a>([u32; 2], [u32; 3], &'a mut [f32]);
    impl pulp::WithSimd for Work<'_> {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
            // Without vectors and fused multiply-add the formula is the faster way.
            if S::IS_SCALAR {
                0
            } else {
                fill_groups(self.0, self.1, self.2)
            }
        }
    }
    pulp::Arch::new().dispatch(Work(key, [step, sample, high], out))
}

#[inline(always)]
fn fill_groups(key: [u32; 2], rest: [u32; 3], out: &mut [f32]) -> usize {
    let groups = out.as_chunks_mut::<GROUP>().0;
    let count = groups.len();
    let mut words = [[0u64; BLOCKS]; 4];
    let mut values = [[0f32; BLOCKS]; 4];
    for (number, group) in groups.iter_mut().enumerate() {
        for start in (0..BLOCKS).step_by(LANES) {
            let lanes = philox(key, (number * BLOCKS + start) as u32, rest);
            for (words, lanes) in words.iter_mut().zip(&lanes) {
                words[start..start + LANES].copy_from_slice(lanes);
            }
        }
        let mut unsure = 0;
        for block in 0..BLOCKS {
            let (a, b, first) = pair(words[0][block], words[1][block]);
            let (c, d, second) = pair(words[2][block], words[3][block]);
            values[0][block] = a as f32;
            values[1][block] = b as f32;
            values[2][block] = c as f32;
            values[3][block] = d as f32;
            unsure |= first | second;
        }
        for (block, four) in group.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *four = [
                values[0][block],
                values[1][block],
                values[2][block],
                values[3][block],
            ];
        }
        if is_unsure(unsure) {
            by_formula(&words, group);
        }
    }
    count * GROUP
}

#[cold]
fn by_formula(words: &[[u64; BLOCKS]; 4], group: &mut [f32; GROUP]) {
    for (block, four) in group.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let words = [0, 1, 2, 3].map(|word| words[word][block] as u32);
        *four = normals(words).map(|value| value as f32);
    }
}

/// Ten rounds of Philox on the counters `[first.., rest]`; words in the low halves of the results.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "a lane is of four arrays")]
fn philox(mut key: [u32; 2], first: u32, rest: [u32; 3]) -> [[u64; LANES]; 4] {
    const LOW: u64 = 0xFFFF_FFFF;
    let mut x: [[u64; LANES]; 4] = [
        std::array::from_fn(|lane| u64::from(first) + lane as u64),
        [u64::from(rest[0]); LANES],
        [u64::from(rest[1]); LANES],
        [u64::from(rest[2]); LANES],
    ];
    for round in 0..ROUNDS {
        if round != 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        for lane in 0..LANES {
            // The high halves of x are of no meaning; the products look at the low ones only.
            let product0 = u64::from(MULTIPLIERS[0]) * (x[0][lane] & LOW);
            let product1 = u64::from(MULTIPLIERS[1]) * (x[2][lane] & LOW);
            x[0][lane] = (product1 >> 32) ^ x[1][lane] ^ u64::from(key[0]);
            x[2][lane] = (product0 >> 32) ^ x[3][lane] ^ u64::from(key[1]);
            x[1][lane] = product1;
            x[3][lane] = product0;
        }
    }
    for words in &mut x {
        for word in words {
            *word &= LOW;
        }
    }
    x
}

/// Two normals of the words `u` and `v`, and a number for [`is_unsure`].
#[inline(always)]
fn pair(u: u64, v: u64) -> (f64, f64, u64) {
    let radius = (-2.0 * ln_fraction(u)).sqrt();
    let (sin, cos) = sin_cos_turn(v);
    let (a, b) = (radius * cos, radius * sin);
    // Zeros: the sign is the formula's, and at whole quarters so is the error of its angle.
    let is_zero = u64::from((u == 0xFFFF_FFFF) | (v & 0x3FFF_FFFF == 0)) * MIDDLE;
    (a, b, near_middle(a) | near_middle(b) | is_zero)
}

/// The bit of an f64 behind the last one of an f32: it changes in the middle between two f32 numbers.
const MIDDLE: u64 = 1 << 28;

/// Has the bit [`MIDDLE`] if an error of 2^-45 of the value, eight times what it can be, could change its rounding.
#[inline(always)]
fn near_middle(value: f64) -> u64 {
    const ERROR: u64 = 1 << 8;
    let bits = value.to_bits();
    bits.wrapping_add(ERROR) ^ bits.wrapping_sub(ERROR)
}

/// Whether any of the values that were or-ed together must be left to the formula.
#[inline(always)]
fn is_unsure(any: u64) -> bool {
    any & MIDDLE != 0
}

const TWO_52: f64 = 4_503_599_627_370_496.0;

/// An integer below 2^52 as f64, less `less`: its bits are those behind 2^52.
#[inline(always)]
fn to_f64(integer: u64, less: f64) -> f64 {
    f64::from_bits(TWO_52.to_bits() | integer) - (TWO_52 + less)
}

/// `ln((word + 1) / 2^32)`
#[inline(always)]
fn ln_fraction(word: u64) -> f64 {
    const SQRT_HALF_BITS: u64 = 0x3FE6_A09E_667F_3BCD;
    const L: [f64; 7] = [
        6.666_666_666_666_735_13e-1,
        3.999_999_999_940_941_91e-1,
        2.857_142_874_366_239_15e-1,
        2.222_219_843_214_978_4e-1,
        1.818_357_216_161_805_01e-1,
        1.531_383_769_920_937_33e-1,
        1.479_819_860_511_658_59e-1,
    ];
    let bits = to_f64(word, -1.0).to_bits();
    // x = 2^k m, m between sqrt(1/2) and sqrt(2)
    let k = (bits - SQRT_HALF_BITS) >> 52;
    let f = f64::from_bits(bits - (k << 52)) - 1.0;
    let k = to_f64(k, 32.0);
    let s = f / (2.0 + f);
    let z = s * s;
    let p = L[6];
    let p = p.mul_add(z, L[5]);
    let p = p.mul_add(z, L[4]);
    let p = p.mul_add(z, L[3]);
    let p = p.mul_add(z, L[2]);
    let p = p.mul_add(z, L[1]);
    let p = p.mul_add(z, L[0]) * z;
    // ln(1 + f) = f - s (f - p)
    k.mul_add(LN_2, (-s).mul_add(f - p, f))
}

/// Sine and cosine of `word / 2^32` turns; the angle is rounded as the formula rounds it.
#[inline(always)]
fn sin_cos_turn(word: u64) -> (f64, f64) {
    /// The first 33 bits of a quarter turn, and the rest.
    const QUARTER: f64 = 1.570_796_326_734_125_61;
    const QUARTER_REST: f64 = 6.077_100_506_506_192_25e-11;
    const S: [f64; 6] = [
        -1.666_666_666_666_663_24e-1,
        8.333_333_333_322_489_46e-3,
        -1.984_126_982_985_794_93e-4,
        2.755_731_370_707_006_77e-6,
        -2.505_076_025_340_686_34e-8,
        1.589_690_995_211_550_1e-10,
    ];
    const C: [f64; 6] = [
        4.166_666_666_666_660_2e-2,
        -1.388_888_888_887_411e-3,
        2.480_158_728_947_673e-5,
        -2.755_731_435_139_066_33e-7,
        2.087_572_321_298_174_83e-9,
        -1.135_964_755_778_819_48e-11,
    ];
    const SIGN: u64 = 1 << 63;
    let quarters = (word + (1 << 29)) >> 30;
    // The formula scales first; powers of two do not change the rounding.
    let angle = to_f64(word, 0.0) * (TAU * WORD_SCALE);
    let q = to_f64(quarters, 0.0);
    // Both products with the first bits are exact, and so is the difference.
    let r = (-q).mul_add(QUARTER_REST, (-q).mul_add(QUARTER, angle));
    let z = r * r;
    let p = S[5];
    let p = p.mul_add(z, S[4]);
    let p = p.mul_add(z, S[3]);
    let p = p.mul_add(z, S[2]);
    let p = p.mul_add(z, S[1]);
    let p = p.mul_add(z, S[0]);
    let sin = (p * z).mul_add(r, r);
    let p = C[5];
    let p = p.mul_add(z, C[4]);
    let p = p.mul_add(z, C[3]);
    let p = p.mul_add(z, C[2]);
    let p = p.mul_add(z, C[1]);
    let p = p.mul_add(z, C[0]);
    let cos = (p * z).mul_add(z, (-0.5f64).mul_add(z, 1.0));
    let is_odd = quarters & 1 != 0;
    let (sin, cos) = if is_odd { (cos, sin) } else { (sin, cos) };
    let sin = sin.to_bits() ^ ((quarters << 62) & SIGN);
    let cos = cos.to_bits() ^ (((quarters + 1) << 62) & SIGN);
    (f64::from_bits(sin), f64::from_bits(cos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula(words: [u32; 4]) -> [u32; 4] {
        normals(words).map(|value| (value as f32).to_bits())
    }

    /// What the vectors make of words, by the formula where they are unsure.
    fn vectors(words: [u32; 4]) -> [u32; 4] {
        let [u, v, w, x] = words.map(u64::from);
        let ((a, b, first), (c, d, second)) = (pair(u, v), pair(w, x));
        if is_unsure(first | second) {
            return formula(words);
        }
        [a, b, c, d].map(|value| (value as f32).to_bits())
    }

    #[test]
    fn every_bit_is_that_of_the_formula_at_the_edges() {
        let mut edges = Vec::new();
        for bit in 0..32 {
            for near in -3i64..=3 {
                edges.push(((1i64 << bit) + near) as u32);
                edges.push((3 * (1i64 << bit) + near) as u32);
                edges.push((near - (1i64 << bit)) as u32);
            }
        }
        for &u in &edges {
            for &v in &edges {
                let words = [u, v, v, u];
                assert_eq!(vectors(words), formula(words), "{words:?}");
            }
        }
    }

    #[test]
    fn every_bit_is_that_of_the_formula_in_millions_of_draws() {
        let (mut out, mut unsure) = (vec![0f32; 1 << 16], 0);
        for sample in 0..40u32 {
            let key = [sample.wrapping_mul(0x9E37_79B9), sample];
            let filled = fill(key, 7, sample, 0x0300_0000, &mut out);
            for (block, four) in out[..filled].as_chunks::<4>().0.iter().enumerate() {
                let words = super::super::philox4x32_10([block as u32, 7, sample, 0x0300_0000], key);
                assert_eq!(four.map(f32::to_bits), formula(words), "{sample} {block}");
                unsure += usize::from(is_unsure(
                    normals(words).map(near_middle).into_iter().fold(0, |a, b| a | b),
                ));
            }
        }
        assert!(
            unsure < 30,
            "{unsure} of 655,360 counters are left to the formula"
        );
    }

    #[test]
    fn the_vectors_err_by_far_less_than_they_are_thought_to() {
        let mut largest = 0f64;
        for i in 0..400_000u32 {
            let words = super::super::philox4x32_10([i, 1, 2, 3], [4, 5]);
            let (u, v) = (u64::from(words[0]), u64::from(words[1]));
            let expected = normals(words);
            let radius = (-2.0 * ln_fraction(u)).sqrt();
            let (sin, cos) = sin_cos_turn(v);
            for (value, expected) in [(radius * cos, expected[0]), (radius * sin, expected[1])] {
                largest = largest.max(((value - expected) / expected).abs());
            }
        }
        assert!(largest < 2f64.powi(-49), "{largest:e}");
    }
}

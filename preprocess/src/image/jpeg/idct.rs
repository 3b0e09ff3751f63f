//! The library's accurate integer inverse cosine transform (`jidctint`, Loeffler, Ligtenberg and Moschytz 1989), on 16
//! blocks at a time, one a lane.
//!
//! Intermediate results are of 16 bits, as in the library's vector code, which Pillow runs: they saturate, but for blocks
//! without frequencies down the columns, where they wrap around. Only damaged files ever get there.

/// Blocks that are transformed together.
pub(super) const LANES: usize = 16;

/// Scaled by 2^13: the rotations' constants.
const F_0_298: i32 = 2446;
const F_0_390: i32 = -3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = -7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = -15137;
const F_1_961: i32 = -16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = -20995;
const F_3_072: i32 = 25172;

/// The coefficients of 16 blocks, `[64][LANES]`, to their samples, which are added as rows: `rows[y]` holds eight samples
/// of each block, the first in the lowest byte.
#[inline(always)]
pub(super) fn inverse(coefficients: &[i16; 64 * LANES], table: &[i16; 64], rows: [&mut [u64; LANES]; 8]) {
    let mut between = [0i16; 64 * LANES];
    for x in 0..8 {
        columns(coefficients, table, x, &mut between);
    }
    let first = |x: usize, lane: usize| coefficients[x * LANES + lane].wrapping_mul(table[x]);
    let mut extreme = false;
    for x in 0..8 {
        for lane in 0..LANES {
            extreme |= !(-8192..8192).contains(&first(x, lane));
        }
    }
    if extreme {
        wrap(coefficients, table, &mut between);
    }
    for (y, row) in rows.into_iter().enumerate() {
        across(&between, y, row);
    }
}

/// The columns of blocks that have coefficients in the first row only, without saturation.
#[cold]
fn wrap(coefficients: &[i16; 64 * LANES], table: &[i16; 64], between: &mut [i16; 64 * LANES]) {
    for lane in 0..LANES {
        if (8..64).any(|k| coefficients[k * LANES + lane] != 0) {
            continue;
        }
        for k in 0..64 {
            let first = coefficients[k % 8 * LANES + lane].wrapping_mul(table[k % 8]);
            between[k * LANES + lane] = first << 2;
        }
    }
}

#[inline(always)]
fn columns(coefficients: &[i16; 64 * LANES], table: &[i16; 64], x: usize, out: &mut [i16; 64 * LANES]) {
    for lane in 0..LANES {
        let v = |y: usize| coefficients[(y * 8 + x) * LANES + lane].wrapping_mul(table[y * 8 + x]);
        let y = transform([v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7)]);
        for (i, y) in y.into_iter().enumerate() {
            out[(i * 8 + x) * LANES + lane] = saturated(y.wrapping_add(1 << 10) >> 11);
        }
    }
}

#[inline(always)]
fn across(between: &[i16; 64 * LANES], y: usize, row: &mut [u64; LANES]) {
    for (lane, out) in row.iter_mut().enumerate() {
        let v = |x: usize| between[(y * 8 + x) * LANES + lane];
        let y = transform([v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7)]);
        let s = |i: usize| ((y[i].wrapping_add(1 << 17) >> 18).clamp(-128, 127) + 128) as u32;
        let low = s(0) | s(1) << 8 | s(2) << 16 | s(3) << 24;
        let high = s(4) | s(5) << 8 | s(6) << 16 | s(7) << 24;
        *out = u64::from(low) | u64::from(high) << 32;
    }
}

#[inline(always)]
fn saturated(v: i32) -> i16 {
    v.clamp(-32768, 32767) as i16
}

/// Eight values to eight sums, scaled by 2^13.
#[inline(always)]
fn transform([v0, v1, v2, v3, v4, v5, v6, v7]: [i16; 8]) -> [i32; 8] {
    let wide = i32::from;
    let z = wide(v2).wrapping_add(wide(v6)).wrapping_mul(F_0_541);
    let a = z.wrapping_add(wide(v6).wrapping_mul(F_1_847));
    let b = z.wrapping_add(wide(v2).wrapping_mul(F_0_765));
    let c = wide(v0.wrapping_add(v4)) << 13;
    let d = wide(v0.wrapping_sub(v4)) << 13;
    let even = [
        c.wrapping_add(b),
        d.wrapping_add(a),
        d.wrapping_sub(a),
        c.wrapping_sub(b),
    ];
    let z3 = wide(v7.wrapping_add(v3));
    let z4 = wide(v5.wrapping_add(v1));
    let z5 = z3.wrapping_add(z4).wrapping_mul(F_1_175);
    let z3 = z3.wrapping_mul(F_1_961).wrapping_add(z5);
    let z4 = z4.wrapping_mul(F_0_390).wrapping_add(z5);
    let z1 = wide(v7).wrapping_add(wide(v1)).wrapping_mul(F_0_899);
    let z2 = wide(v5).wrapping_add(wide(v3)).wrapping_mul(F_2_562);
    let sum = |v: i16, k: i32, a: i32, b: i32| wide(v).wrapping_mul(k).wrapping_add(a).wrapping_add(b);
    let odd = [
        sum(v1, F_1_501, z1, z4),
        sum(v3, F_3_072, z2, z3),
        sum(v5, F_2_053, z2, z4),
        sum(v7, F_0_298, z1, z3),
    ];
    [
        even[0].wrapping_add(odd[0]),
        even[1].wrapping_add(odd[1]),
        even[2].wrapping_add(odd[2]),
        even[3].wrapping_add(odd[3]),
        even[3].wrapping_sub(odd[3]),
        even[2].wrapping_sub(odd[2]),
        even[1].wrapping_sub(odd[1]),
        even[0].wrapping_sub(odd[0]),
    ]
}

//! The network from its input to its last maps, in either form.

use preprocess::nn::{Padding, Pool};

use super::backend::Backend;
use super::blocks::{
    Block, Branch, COLUMN3, COLUMN7, HALVE3, Loader, POINT, ROW3, ROW7, SAME3, SAME5, SidePool, TensorSource,
    VALID3,
};
use crate::error::Result;

/// Channels that sFID keeps of Mixed_6d's first branch.
pub(super) const SPATIAL_CHANNELS: usize = 7;
/// Index of Mixed_6d in [`Network::mixed`].
const MIXED_6D: usize = 6;

/// The convolutions with their weights.
pub(super) struct Network<B: Backend> {
    stem: Vec<B::Conv>,
    mixed: Vec<Block<B>>,
}

/// Features of a batch of `B` images, row-major.
pub(super) struct Seen {
    /// `[B, 2048]`.
    pub(super) pool: Vec<f32>,
    /// `[B, 2023]`.
    pub(super) spatial: Vec<f32>,
}

impl<B: Backend> Network<B> {
    /// Takes the tensors that `source` gives.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or the device has no room.
    pub(super) fn load(backend: &B, source: &mut TensorSource<'_>) -> Result<Self> {
        let s = &mut Loader { backend, source };
        let stem = vec![
            s.conv_bn("Conv2d_1a_3x3", 3, 32, HALVE3)?,
            s.conv_bn("Conv2d_2a_3x3", 32, 32, VALID3)?,
            s.conv_bn("Conv2d_2b_3x3", 32, 64, SAME3)?,
            s.conv_bn("Conv2d_3b_1x1", 64, 80, POINT)?,
            s.conv_bn("Conv2d_4a_3x3", 80, 192, VALID3)?,
        ];
        let mixed = vec![
            block_a(s, "Mixed_5b", 192, 32)?,
            block_a(s, "Mixed_5c", 256, 64)?,
            block_a(s, "Mixed_5d", 288, 64)?,
            block_b(s, "Mixed_6a", 288)?,
            block_c(s, "Mixed_6b", 128)?,
            block_c(s, "Mixed_6c", 160)?,
            block_c(s, "Mixed_6d", 160)?,
            block_c(s, "Mixed_6e", 192)?,
            block_d(s, "Mixed_7a")?,
            block_e(s, "Mixed_7b", 1280, SidePool::Average)?,
            block_e(s, "Mixed_7c", 2048, SidePool::Maximum)?,
        ];
        Ok(Self { stem, mixed })
    }

    /// What it sees in `x`: `B` images of 299 x 299 pixels in about [-1, 1].
    ///
    /// # Errors
    /// If the input does not fit, or the device fails.
    pub(super) fn forward(&self, mut x: B::Map) -> Result<Seen> {
        for (i, conv) in self.stem.iter().enumerate() {
            // Maximum pools follow the third and the fifth convolution.
            let next = self
                .stem
                .get(i + 1)
                .filter(|_| i != 2)
                .map_or(Padding::NONE, B::border);
            x = B::conv_relu(conv, &x, next)?;
            if i == 2 || i == 4 {
                x = B::pool(Pool::Maximum, &x, 2, 0)?;
            }
        }
        let mut spatial = None;
        for (i, block) in self.mixed.iter().enumerate() {
            x = block.forward(&x)?;
            if i == MIXED_6D {
                spatial = Some(B::first_channels(&x, SPATIAL_CHANNELS)?);
            }
        }
        Ok(Seen {
            pool: B::spatial_mean(&x)?,
            spatial: spatial.as_ref().map_or_else(|| Ok(Vec::new()), B::values)?,
        })
    }
}

/// 35 x 35 pixels; `pool` channels after the pool.
fn block_a<B: Backend>(
    s: &mut Loader<'_, '_, B>,
    name: &str,
    inputs: usize,
    pool: usize,
) -> Result<Block<B>> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, inputs, &[("branch1x1", 64, POINT)])?,
            Branch::new(
                s,
                name,
                inputs,
                &[("branch5x5_1", 48, POINT), ("branch5x5_2", 64, SAME5)],
            )?,
            Branch::new(
                s,
                name,
                inputs,
                &[
                    ("branch3x3dbl_1", 64, POINT),
                    ("branch3x3dbl_2", 96, SAME3),
                    ("branch3x3dbl_3", 96, SAME3),
                ],
            )?,
        ],
        pool: SidePool::Average,
        after_pool: Some(s.conv_bn(&format!("{name}.branch_pool"), inputs, pool, POINT)?),
    })
}

/// From 35 x 35 to 17 x 17 pixels.
fn block_b<B: Backend>(s: &mut Loader<'_, '_, B>, name: &str, inputs: usize) -> Result<Block<B>> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, inputs, &[("branch3x3", 384, HALVE3)])?,
            Branch::new(
                s,
                name,
                inputs,
                &[
                    ("branch3x3dbl_1", 64, POINT),
                    ("branch3x3dbl_2", 96, SAME3),
                    ("branch3x3dbl_3", 96, HALVE3),
                ],
            )?,
        ],
        pool: SidePool::HalvingMaximum,
        after_pool: None,
    })
}

/// 17 x 17 pixels, with `c7` channels inside the factorised 7 x 7 convolutions.
fn block_c<B: Backend>(s: &mut Loader<'_, '_, B>, name: &str, c7: usize) -> Result<Block<B>> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, 768, &[("branch1x1", 192, POINT)])?,
            Branch::new(
                s,
                name,
                768,
                &[
                    ("branch7x7_1", c7, POINT),
                    ("branch7x7_2", c7, ROW7),
                    ("branch7x7_3", 192, COLUMN7),
                ],
            )?,
            Branch::new(
                s,
                name,
                768,
                &[
                    ("branch7x7dbl_1", c7, POINT),
                    ("branch7x7dbl_2", c7, COLUMN7),
                    ("branch7x7dbl_3", c7, ROW7),
                    ("branch7x7dbl_4", c7, COLUMN7),
                    ("branch7x7dbl_5", 192, ROW7),
                ],
            )?,
        ],
        pool: SidePool::Average,
        after_pool: Some(s.conv_bn(&format!("{name}.branch_pool"), 768, 192, POINT)?),
    })
}

/// From 17 x 17 to 8 x 8 pixels.
fn block_d<B: Backend>(s: &mut Loader<'_, '_, B>, name: &str) -> Result<Block<B>> {
    Ok(Block {
        branches: vec![
            Branch::new(
                s,
                name,
                768,
                &[("branch3x3_1", 192, POINT), ("branch3x3_2", 320, HALVE3)],
            )?,
            Branch::new(
                s,
                name,
                768,
                &[
                    ("branch7x7x3_1", 192, POINT),
                    ("branch7x7x3_2", 192, ROW7),
                    ("branch7x7x3_3", 192, COLUMN7),
                    ("branch7x7x3_4", 192, HALVE3),
                ],
            )?,
        ],
        pool: SidePool::HalvingMaximum,
        after_pool: None,
    })
}

/// 8 x 8 pixels.
fn block_e<B: Backend>(
    s: &mut Loader<'_, '_, B>,
    name: &str,
    inputs: usize,
    pool: SidePool,
) -> Result<Block<B>> {
    Ok(Block {
        branches: vec![
            Branch::new(s, name, inputs, &[("branch1x1", 320, POINT)])?,
            Branch::with_split(
                s,
                name,
                inputs,
                &[("branch3x3_1", 384, POINT)],
                [("branch3x3_2a", 384, ROW3), ("branch3x3_2b", 384, COLUMN3)],
            )?,
            Branch::with_split(
                s,
                name,
                inputs,
                &[("branch3x3dbl_1", 448, POINT), ("branch3x3dbl_2", 384, SAME3)],
                [("branch3x3dbl_3a", 384, ROW3), ("branch3x3dbl_3b", 384, COLUMN3)],
            )?,
        ],
        pool,
        after_pool: Some(s.conv_bn(&format!("{name}.branch_pool"), inputs, 192, POINT)?),
    })
}

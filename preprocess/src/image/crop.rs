//! The centre crop of ADM and DiT: halve with BOX while twice too large, BICUBIC to the exact size, cut the middle.
//!
//! Dhariwal and Nichol 2021, `image_datasets.py`, `center_crop_arr`. Each halving floors both sides on their own, so
//! that it is not always a mean of 2 x 2 pixels. Windows of the steps are worked out from the last to the first, and
//! only what the crop needs is computed.

use std::ops::Range;

use super::resample::{Axis, Filter, Rows, resize_window};
use super::{Error, Format, RgbImage, Rgbx, decode, jpeg, probe};

/// Decodes an image file and crops it to `size` x `size`.
///
/// # Errors
/// As [`decode::decode_rgb`].
pub fn decode_and_crop(bytes: &[u8], size: usize) -> Result<RgbImage, Error> {
    decode_by_plan(bytes, |width, height| Plan::new(width, height, size))
}

/// Decodes an image file and crops it by the plan for its size.
pub(super) fn decode_by_plan(bytes: &[u8], plan: impl Fn(usize, usize) -> Plan) -> Result<RgbImage, Error> {
    let header = probe(bytes)?;
    let plan = plan(header.width, header.height);
    if header.format == Format::Jpeg {
        // Only what the crop needs is turned into pixels, row by row.
        let window = |_, _| plan.windows[0].clone();
        let crop = jpeg::with_common(bytes, window, |pixels, _| plan.run(pixels));
        if let Some(crop) = crop {
            return Ok(crop.to_rgb());
        }
    }
    Ok(plan.crop(decode::decode_rgbx(bytes)?).to_rgb())
}

/// Crops an image to `size` x `size`; smaller images are enlarged. An empty image stays empty.
pub fn center_crop(image: &RgbImage, size: usize) -> RgbImage {
    if image.width == 0 || image.height == 0 || size == 0 {
        return RgbImage {
            width: 0,
            height: 0,
            data: Vec::new(),
        };
    }
    Plan::new(image.width, image.height, size)
        .crop(Rgbx::from_rgb(image))
        .to_rgb()
}

/// The sizes through which an image passes: the source's, each halving's, the one that is cut.
pub fn sizes(width: usize, height: usize, size: usize) -> Vec<(usize, usize)> {
    let (mut w, mut h) = (width, height);
    let mut all = vec![(w, h)];
    while w.min(h) >= 2 * size {
        (w, h) = (w / 2, h / 2);
        all.push((w, h));
    }
    let scale = size as f64 / w.min(h) as f64;
    let exact = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    all.push((exact(w), exact(h)));
    all
}

/// The steps of a crop and what each needs.
pub(super) struct Plan {
    /// As [`sizes`] gives them.
    sizes: Vec<(usize, usize)>,
    /// (columns, rows) needed of the source and of each step's result, in the coordinates of the whole image.
    windows: Vec<(Range<usize>, Range<usize>)>,
    /// The filter of the last step; those before halve with BOX.
    last: Filter,
}

impl Plan {
    fn new(width: usize, height: usize, size: usize) -> Self {
        Self::through(sizes(width, height, size), Filter::Bicubic, size)
    }

    /// Resizes through `sizes` and cuts the middle of the last.
    pub(super) fn through(sizes: Vec<(usize, usize)>, last: Filter, size: usize) -> Self {
        let steps = sizes.len() - 1;
        let (w, h) = sizes[steps];
        let centre = |side: usize| (side - size) / 2..(side - size) / 2 + size;
        let mut plan = Self {
            sizes,
            windows: vec![(centre(w), centre(h))],
            last,
        };
        for step in (0..steps).rev() {
            let (across, down) = plan.axes(step);
            let (columns, rows) = &plan.windows[plan.windows.len() - 1];
            plan.windows.push((across.inputs(columns), down.inputs(rows)));
        }
        plan.windows.reverse();
        plan
    }

    /// How step `step` resizes across and down.
    fn axes(&self, step: usize) -> (Axis, Axis) {
        let filter = if step + 2 == self.sizes.len() {
            self.last
        } else {
            Filter::Box
        };
        let ((w, h), (to_w, to_h)) = (self.sizes[step], self.sizes[step + 1]);
        let axis = |from, to| Axis { filter, from, to };
        (axis(w, to_w), axis(h, to_h))
    }

    /// Crops the whole source.
    fn crop(&self, source: Rgbx) -> Rgbx {
        self.run(&mut &cut(source, &self.windows[0]))
    }

    /// Crops from the needed window of the source.
    fn run<R: Rows>(&self, source: &mut R) -> Rgbx {
        let mut image = self.step(0, source);
        for step in 1..self.sizes.len() - 1 {
            image = self.step(step, &mut &image);
        }
        image
    }

    fn step<R: Rows>(&self, step: usize, source: &mut R) -> Rgbx {
        let (across, down) = self.axes(step);
        let (columns, rows) = &self.windows[step + 1];
        resize_window(source, across, columns, down, rows)
    }
}

/// A window of an image.
fn cut(image: Rgbx, (columns, rows): &(Range<usize>, Range<usize>)) -> Rgbx {
    if (columns.len(), rows.len()) == (image.width, image.height) {
        return image;
    }
    let mut data = Vec::with_capacity(columns.len() * rows.len() * 4);
    for y in rows.clone() {
        data.extend_from_slice(&image.data[(y * image.width + columns.start) * 4..][..columns.len() * 4]);
    }
    Rgbx {
        width: columns.len(),
        height: rows.len(),
        data,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sha2::Digest;

    use super::*;

    /// A made image with structure in every channel.
    pub(in super::super) fn synthetic(width: usize, height: usize) -> RgbImage {
        let mut data = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    let v = 7 * x + 13 * y + 29 * c + 5 * ((x * y) % 31) + 3 * ((x * x + y) % 17);
                    data.push((v % 256) as u8);
                }
            }
        }
        RgbImage { width, height, data }
    }

    pub(in super::super) fn sha(data: &[u8]) -> String {
        sha2::Sha256::digest(data)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    #[test]
    fn the_synthetic_image_is_the_agreed_one() {
        let image = synthetic(37, 23);
        assert_eq!(
            sha(&image.data),
            "cc51bbc4ff5b8df98e7d732397582c69ff189d6b14921abc888729880005cceb"
        );
    }

    #[test]
    fn crops_are_pillows() {
        type Case = ((usize, usize), usize, (usize, usize), &'static str);
        let cases: [Case; 10] = [
            (
                (37, 23),
                8,
                (13, 8),
                "d1a3ae0d81b01a710216fd9f0f18c9f695c4233cb57f3278a7f37ff0d23db195",
            ),
            (
                (500, 375),
                64,
                (86, 64),
                "06495240640f655b35c0773f6bd651c027ec9f21c60fbfa622456cb19f35744c",
            ),
            (
                (501, 333),
                256,
                (385, 256),
                "306bb9e642879542ca3d91a0bd97b717656d9fcfdee76bf52ebe9e4eb7f08a37",
            ),
            (
                (640, 480),
                256,
                (341, 256),
                "c1e661385485f6f5005c0b3e7c8969a15a47e5b503443ba500324e12ead9644c",
            ),
            (
                (1200, 801),
                256,
                (384, 256),
                "381e66d3c39fc611ec2e3e64aba2ddd294e79cd246a194c09478cd080deb6ca6",
            ),
            (
                (2592, 1944),
                256,
                (341, 256),
                "bd15236846bbf28ec403e90bb050304688302ebc3bdec730f418a26e27449c57",
            ),
            (
                (200, 150),
                256,
                (341, 256),
                "04d5fda326311497d9ce7d8852dd148d25fc5aecf6c038a91e0473747785686e",
            ),
            (
                (512, 512),
                256,
                (256, 256),
                "b79a275d3905a89e1b45e7cab2b98796cd43445fe7f77f85a3fa207e911c251f",
            ),
            (
                (1023, 511),
                256,
                (513, 256),
                "a88733273e86b0f352cd1b16bc15445cc3e0b893f985b5ed8b4e993d7e558732",
            ),
            (
                (500, 375),
                512,
                (683, 512),
                "286cd0288eec142fbdc1bf93f5f93fe0600c4d60ec1efaacf0c83b01cb0670c4",
            ),
        ];
        for ((w, h), size, before, expected) in cases {
            assert_eq!(sizes(w, h, size).last(), Some(&before));
            let image = center_crop(&synthetic(w, h), size);
            assert_eq!((image.width, image.height), (size, size));
            assert_eq!(sha(&image.data), expected, "{w}x{h} to {size}");
        }
    }

    #[test]
    fn extreme_shapes_are_cropped_without_the_whole_enlargement() {
        let image = center_crop(&synthetic(1, 5000), 64);
        assert_eq!((image.width, image.height), (64, 64));
        assert_eq!(center_crop(&synthetic(3000, 1), 8).data.len(), 192);
    }
}

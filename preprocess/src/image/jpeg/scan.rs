//! From the coded data to the samples of a window: a row of scan units at a time.

use std::ops::Range;

use super::entropy::Segments;
use super::frame::Frame;
use super::idct::{self, LANES};
use super::plane::Plane;

/// Memory that one image after the other uses.
#[derive(Default)]
pub(super) struct Scratch {
    segments: Segments,
    /// Coefficients of a row of scan units.
    groups: Vec<[i16; 64 * LANES]>,
    pub(super) planes: [Plane; 3],
}

/// Decodes the samples on which the pixels `columns` x `rows` depend, into `scratch.planes`. The whole file is read, so
/// that damage anywhere is seen. `None` when something is unusual.
pub(super) fn decode(
    bytes: &[u8],
    frame: &Frame,
    columns: &Range<usize>,
    rows: &Range<usize>,
    scratch: &mut Scratch,
) -> Option<()> {
    scratch.segments.read(bytes.get(frame.data..)?)?;
    let (h, v) = frame.factors();
    for (component, plane) in frame.components.iter().zip(&mut scratch.planes) {
        let (across, down) = (h / component.h, v / component.v);
        let size = (frame.width.div_ceil(across), frame.height.div_ceil(down));
        let columns = samples(columns, across, size.0);
        let rows = samples(rows, down, size.1);
        plane.reset(size, &columns, &rows);
    }
    pulp::Arch::new().dispatch(Work { frame, scratch })
}

/// The samples that the pixels need of a component with one sample for `ratio` pixels: with halved ones the neighbours too.
fn samples(pixels: &Range<usize>, ratio: usize, size: usize) -> Range<usize> {
    if ratio == 1 {
        return pixels.clone();
    }
    (pixels.start / ratio).saturating_sub(1)..((pixels.end - 1) / ratio + 2).min(size)
}

/// The loops, compiled for the processor's widest vectors and its shifts without flags.
struct Work<'a> {
    frame: &'a Frame,
    scratch: &'a mut Scratch,
}

impl pulp::WithSimd for Work<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Option<()> {
        scan(self.frame, self.scratch)
    }
}

#[inline(always)]
fn scan(frame: &Frame, scratch: &mut Scratch) -> Option<()> {
    let Scratch {
        segments,
        groups,
        planes,
    } = scratch;
    let (h, v) = frame.factors();
    let units = (frame.width.div_ceil(8 * h), frame.height.div_ceil(8 * v));
    let interval = if frame.restart_interval == 0 {
        units.0 * units.1
    } else {
        frame.restart_interval
    };
    if segments.len() != (units.0 * units.1).div_ceil(interval) {
        return None;
    }
    // Where each component's coefficients begin, in groups.
    let mut starts = [0; 4];
    for (i, component) in frame.components.iter().enumerate() {
        starts[i + 1] = starts[i] + component.v * planes[i].groups();
    }
    groups.resize(starts[frame.components.len()], [0; 64 * LANES]);
    let mut bits = segments.bits(0)?;
    let mut predicted = [0; 3];
    let (mut unit, mut segment) = (0, 0);
    for unit_y in 0..units.1 {
        for group in groups.iter_mut() {
            group.fill(0);
        }
        for unit_x in 0..units.0 {
            if unit == interval {
                if !bits.is_within() {
                    return None;
                }
                segment += 1;
                bits = segments.bits(segment)?;
                (unit, predicted) = (0, [0; 3]);
            }
            unit += 1;
            for (i, component) in frame.components.iter().enumerate() {
                let (dc, ac) = (frame.dc(component)?, frame.ac(component)?);
                let plane = &planes[i];
                for y in 0..component.v {
                    for x in 0..component.h {
                        let (bx, by) = (unit_x * component.h + x, unit_y * component.v + y);
                        if plane.across.contains(&bx) && plane.down.contains(&by) {
                            let at = bx - plane.across.start;
                            let group = groups.get_mut(starts[i] + y * plane.groups() + at / LANES)?;
                            bits.block::<true>(dc, ac, &mut predicted[i], group, at % LANES)?;
                        } else {
                            bits.block::<false>(dc, ac, &mut predicted[i], &mut [0; 64 * LANES], 0)?;
                        }
                    }
                }
            }
        }
        for (i, component) in frame.components.iter().enumerate() {
            let table = frame.quantisation(component)?;
            let plane = &mut planes[i];
            for y in 0..component.v {
                let by = unit_y * component.v + y;
                if !plane.down.contains(&by) {
                    continue;
                }
                for group in 0..plane.groups() {
                    let coefficients = &groups[starts[i] + y * plane.groups() + group];
                    idct::inverse(coefficients, table, plane.group(by, group)?);
                }
            }
        }
    }
    bits.is_within().then_some(())
}

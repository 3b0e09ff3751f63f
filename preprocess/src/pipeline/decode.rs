//! From the source's bytes to blocks of cropped images, in order.

use crossbeam_channel::{Receiver, Sender};

use super::admission::Admission;
use super::clock::{Clocks, Stage};
use super::config::Blocks;
use super::order::InOrder;
use super::{EncodeConfig, Error};
use crate::dataset::Dataset;
use crate::image::{self, RgbImage};

/// A position with its encoded image.
pub(super) type Fetched = (u64, Vec<u8>);
/// A position with its cropped image.
pub(super) type Decoded = (u64, Result<RgbImage, image::Error>);
/// A block with its images, in order.
pub(super) type Gathered = (u64, Vec<Decoded>);

/// One thread that reads.
pub(super) fn fetch(source: &Dataset, admission: &Admission, clocks: &Clocks, fetched: &Sender<Fetched>) {
    while let Some(position) = admission.claim() {
        match clocks.time(Stage::Fetch, || source.fetch(position)) {
            Ok(bytes) => {
                if !admission.admit(position, bytes.len()) || fetched.send((position, bytes)).is_err() {
                    return;
                }
            }
            Err(error) => {
                return admission.fail(Error::Source {
                    key: source.key(position),
                    source: error,
                });
            }
        }
    }
}

/// One thread that decodes and crops.
pub(super) fn decode(
    config: &EncodeConfig,
    source: &Dataset,
    admission: &Admission,
    clocks: &Clocks,
    fetched: &Receiver<Fetched>,
    decoded: &Sender<Decoded>,
) {
    for (position, bytes) in fetched {
        // What the head does not tell, the decoder refuses.
        let needed = image::probe(&bytes).map_or(0, |head| head.decoding_bytes() as u64);
        let Some(memory) = admission.decoding(needed) else {
            return;
        };
        let image = clocks.time(Stage::Decode, || {
            source.decode(position, &bytes, config.header.image_size)
        });
        drop(memory);
        if decoded.send((position, image)).is_err() {
            return;
        }
    }
}

/// Gathers images into blocks.
pub(super) fn gather(blocks: &Blocks, decoded: &Receiver<Decoded>, gathered: &Sender<Gathered>) {
    let mut images = InOrder::new(decoded);
    for number in blocks.numbers() {
        let positions = blocks.positions(number);
        let mut block = Vec::with_capacity((positions.end - positions.start) as usize);
        for position in positions {
            let Some(image) = images.take(position) else {
                return;
            };
            block.push((position, image));
        }
        if gathered.send((number, block)).is_err() {
            return;
        }
    }
}

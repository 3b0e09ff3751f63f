//! From blocks of images to stored samples.

use candle_core::Device;
use crossbeam_channel::{Receiver, Sender};
use shards::manifest::Flip;
use shards::writer::{EncodedRecord, Record, RecordEncoder};

use super::admission::Admission;
use super::clock::{Clocks, Stage};
use super::decode::Gathered;
use super::rejects::Reject;
use super::{EncodeConfig, Encoder, Error};
use crate::dataset::Dataset;
use crate::image::{RgbImage, tensor};

/// What became of an image.
pub(super) enum Outcome<S> {
    Sample(S),
    Reject(Reject),
}

/// A block with the position and the outcome of each of its images, in order.
pub(super) type Block<S> = (u64, Vec<(u64, Outcome<S>)>);

/// The thread of one autoencoder.
pub(super) fn encode(
    config: &EncodeConfig,
    source: &Dataset,
    encoder: &dyn Encoder,
    admission: &Admission,
    clocks: &Clocks,
    gathered: &Receiver<Gathered>,
    encoded: &Sender<Block<Record>>,
) {
    for (number, block) in gathered {
        if admission.is_stopped() {
            return;
        }
        match clocks.time(Stage::Encode, || encode_block(config, source, encoder, block)) {
            Ok(outcomes) => {
                if encoded.send((number, outcomes)).is_err() {
                    return;
                }
            }
            Err(error) => return admission.fail(Error::Encode(error)),
        }
    }
}

fn encode_block(
    config: &EncodeConfig,
    source: &Dataset,
    encoder: &dyn Encoder,
    block: Vec<super::decode::Decoded>,
) -> anyhow::Result<Vec<(u64, Outcome<Record>)>> {
    let (mut images, mut outcomes) = (Vec::new(), Vec::with_capacity(block.len()));
    for (position, image) in block {
        let (id, key) = (source.id(position), source.key(position));
        let outcome = match image {
            Ok(image) => {
                images.push(image);
                Outcome::Sample(Record {
                    id,
                    key,
                    label: source.label(position),
                    views: Vec::new(),
                })
            }
            Err(error) => Outcome::Reject(Reject {
                id,
                key,
                reason: error.to_string(),
            }),
        };
        outcomes.push((position, outcome));
    }
    if images.is_empty() {
        return Ok(outcomes);
    }
    let mut views = vec![images];
    if config.header.store.flip == Flip::Both {
        views.push(views[0].iter().map(RgbImage::flipped).collect());
    }
    for view in views {
        let mut moments = encoder
            .encode(&tensor::to_unit(&view, &Device::Cpu)?)?
            .into_iter();
        for (_, outcome) in &mut outcomes {
            if let Outcome::Sample(record) = outcome {
                record.views.extend(moments.next());
            }
        }
    }
    Ok(outcomes)
}

/// One thread that quantises and compresses. Samples before position `first` are stored already.
pub(super) fn compress(
    records: Result<RecordEncoder, shards::error::Error>,
    first: u64,
    admission: &Admission,
    clocks: &Clocks,
    encoded: &Receiver<Block<Record>>,
    compressed: &Sender<Block<EncodedRecord>>,
) {
    let mut records = match records {
        Ok(records) => records,
        Err(error) => return admission.fail(error.into()),
    };
    for (number, block) in encoded {
        let mut outcomes = Vec::with_capacity(block.len());
        for (position, outcome) in block {
            let outcome = match outcome {
                Outcome::Reject(reject) => Outcome::Reject(reject),
                Outcome::Sample(_) if position < first => continue,
                Outcome::Sample(record) => match clocks.time(Stage::Compress, || records.encode(&record)) {
                    Ok(record) => Outcome::Sample(record),
                    Err(error) => return admission.fail(error.into()),
                },
            };
            outcomes.push((position, outcome));
        }
        if compressed.send((number, outcomes)).is_err() {
            return;
        }
    }
}

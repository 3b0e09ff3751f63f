//! The thread that writes, block by block in order.

use crossbeam_channel::{Receiver, Sender};
use shards::manifest::Manifest;
use shards::writer::{DatasetWriter, EncodedRecord};

use super::Error;
use super::admission::Admission;
use super::clock::{Clocks, Stage};
use super::config::Blocks;
use super::encode::{Block, Outcome};
use super::order::InOrder;
use super::rejects::Rejects;

/// How far the writer is.
pub(super) struct Told {
    /// The position after the last one that is dealt with.
    pub(super) position: u64,
    /// Bad images, of all runs.
    pub(super) rejects: u64,
}

/// Writes all blocks and finishes the dataset.
pub(super) fn write(
    mut writer: DatasetWriter,
    mut rejects: Rejects,
    blocks: &Blocks,
    admission: &Admission,
    clocks: &Clocks,
    compressed: &Receiver<Block<EncodedRecord>>,
    told: &Sender<Told>,
) -> Result<(Manifest, u64), Error> {
    let mut finished = InOrder::new(compressed);
    for number in blocks.numbers() {
        let Some(outcomes) = finished.take(number) else {
            return Err(Error::Stopped);
        };
        for (_, outcome) in outcomes {
            let done = clocks.time(Stage::Write, || match outcome {
                Outcome::Sample(record) => writer.push_encoded(record).map_err(Error::from),
                // On the disk before any sample behind it.
                Outcome::Reject(reject) => rejects.add(reject),
            });
            if let Err(error) = done {
                admission.fail(error);
                return Err(Error::Stopped);
            }
        }
        admission.written();
        // Nobody listening is no reason to stop.
        let _ = told.send(Told {
            position: blocks.positions(number).end,
            rejects: rejects.count(),
        });
    }
    Ok((writer.finish()?, rejects.count()))
}

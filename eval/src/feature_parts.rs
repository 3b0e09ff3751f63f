//! Features of samples, kept beside their parts: `part-00000.<network>.npz` with `pool`, `spatial` and `logits`.

use std::path::PathBuf;

use trainer::bulk::SampleSet;
use trainer::distributed::HostReducer;

use crate::error::Result;
use crate::features::BATCH;
use crate::inception::{CLASSES, Features, Inception, POOL_FEATURES, SPATIAL_FEATURES};
use crate::npz::{NpzReader, NpzWriter};

const ARRAYS: [(&str, usize); 3] = [
    ("pool", POOL_FEATURES),
    ("spatial", SPATIAL_FEATURES),
    ("logits", CLASSES),
];

/// What a network sees in a set of samples.
pub(crate) struct FeatureParts<'a> {
    set: &'a SampleSet<'a>,
    network: &'a Inception,
    network_id: String,
}

impl<'a> FeatureParts<'a> {
    pub(crate) fn new(set: &'a SampleSet<'a>, network: &'a Inception, network_id: &str) -> Self {
        Self {
            set,
            network,
            network_id: network_id.replace(':', "-"),
        }
    }

    fn path(&self, part: u64) -> PathBuf {
        self.set
            .path(part)
            .with_extension(format!("{}.npz", self.network_id))
    }

    /// Whether the features of all images of a part are there.
    fn is_done(&self, part: u64) -> bool {
        let path = self.path(part);
        let is_newer = || -> std::io::Result<bool> {
            Ok(path.metadata()?.modified()? >= self.set.path(part).metadata()?.modified()?)
        };
        let count = self.set.images_of(part);
        is_newer().unwrap_or(false)
            && NpzReader::open(&path).is_ok_and(|mut reader| {
                ARRAYS.iter().all(|(name, width)| {
                    reader
                        .header(name)
                        .is_ok_and(|header| header.shape == [count, *width])
                })
            })
    }

    /// Computes what is missing, each process of `group` its share; returns when all of it is there.
    pub(crate) fn complete(&self, group: &mut HostReducer, mut done: impl FnMut(u64, u64)) -> Result<()> {
        let (rank, ranks) = (group.rank() as u64, group.ranks() as u64);
        let mine: Vec<u64> = self.set.parts().filter(|part| part % ranks == rank).collect();
        let total = mine.iter().map(|&part| self.set.images_of(part) as u64).sum();
        let mut seen = 0;
        for part in mine {
            if !self.is_done(part) {
                self.write(part)?;
            }
            seen += self.set.images_of(part) as u64;
            done(seen, total);
        }
        group.barrier();
        Ok(())
    }

    fn write(&self, part: u64) -> Result<()> {
        let mut all = Features::default();
        self.set.visit_part(part, BATCH, |images| -> Result<()> {
            let features = self.network.features(&images)?;
            all.pool.extend(features.pool);
            all.spatial.extend(features.spatial);
            all.logits.extend(features.logits);
            Ok(())
        })?;
        let mut writer = NpzWriter::create(&self.path(part))?;
        for ((name, width), values) in ARRAYS.iter().zip([&all.pool, &all.spatial, &all.logits]) {
            writer.array_f32(name, &[values.len() / width, *width], values)?;
        }
        Ok(writer.finish()?)
    }

    /// Shows the features of all parts in their order.
    pub(crate) fn visit(&self, mut visit: impl FnMut(Features) -> Result<()>) -> Result<()> {
        for part in self.set.parts() {
            let mut reader = NpzReader::open(&self.path(part))?;
            let mut array = |name: &str| reader.read_f32(name).map(|(_, values)| values);
            visit(Features {
                pool: array("pool")?,
                spatial: array("spatial")?,
                logits: array("logits")?,
            })?;
        }
        Ok(())
    }
}

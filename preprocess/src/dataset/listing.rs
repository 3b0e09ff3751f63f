//! Which images a source has: key, label and record id of each, in the order in which they are read.
//!
//! Kept compactly, some 60 bytes an image, since ImageNet has 1.28 million and LSUN's bedrooms 3 million.

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::Error;

/// Keys, labels and record ids, by position in the order of reading.
///
/// A record's id is its rank in the canonical order (class, then key, compared bytewise), so that it is the same
/// whatever container the image comes from.
#[derive(Debug, Default)]
pub struct Listing {
    keys: String,
    /// Where each key ends; it starts where the one before ends.
    ends: Vec<u64>,
    labels: Vec<i32>,
    /// Ranks; empty when the order of reading is the canonical one.
    ids: Vec<u32>,
    /// Positions by rank, made when the first is asked for.
    positions: OnceLock<Vec<u32>>,
}

impl Listing {
    /// Adds an image at the end of the order of reading.
    pub fn push(&mut self, key: &str, label: i32) {
        self.keys.push_str(key);
        self.ends.push(self.keys.len() as u64);
        self.labels.push(label);
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key at a position.
    pub fn key(&self, position: usize) -> &str {
        let start = if position == 0 {
            0
        } else {
            self.ends[position - 1] as usize
        };
        &self.keys[start..self.ends[position] as usize]
    }

    /// The label at a position.
    pub fn label(&self, position: usize) -> i64 {
        i64::from(self.labels[position])
    }

    /// The record id at a position.
    pub fn id(&self, position: usize) -> u64 {
        self.ids
            .get(position)
            .map_or(position as u64, |&id| u64::from(id))
    }

    /// The position with a record id.
    pub fn position(&self, id: u64) -> Option<usize> {
        if self.ids.is_empty() {
            return usize::try_from(id).ok().filter(|&position| position < self.len());
        }
        let positions = self.positions.get_or_init(|| {
            let mut positions = vec![0; self.ids.len()];
            self.ids
                .iter()
                .enumerate()
                .for_each(|(position, &id)| positions[id as usize] = position as u32);
            positions
        });
        Some(*positions.get(usize::try_from(id).ok()?)? as usize)
    }

    /// Replaces the labels.
    pub fn relabel(&mut self, label: impl Fn(usize, &Self) -> i32) {
        self.labels = (0..self.len()).map(|position| label(position, self)).collect();
    }

    /// Positions in canonical order. Equal keys keep the order of reading.
    fn canonical_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_by(|&a, &b| {
            let place = |position: u32| (self.labels[position as usize], self.key(position as usize));
            place(a).cmp(&place(b))
        });
        order
    }

    /// Gives the images their ids and keeps the order in which they were pushed: for containers that must be read as
    /// they lie.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn in_storage_order(mut self) -> Result<Self, Error> {
        self.check_size()?;
        let order = self.canonical_order();
        if !order.is_sorted() {
            self.ids = vec![0; order.len()];
            for (id, &position) in order.iter().enumerate() {
                self.ids[position as usize] = id as u32;
            }
        }
        Ok(self)
    }

    /// Sorts the images canonically; answers, too, where each was when it was pushed.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn in_canonical_order(self) -> Result<(Self, Vec<u32>), Error> {
        self.check_size()?;
        let order = self.canonical_order();
        if order.is_sorted() {
            return Ok((self, order));
        }
        let mut sorted = Self::default();
        for &position in &order {
            sorted.push(self.key(position as usize), self.labels[position as usize]);
        }
        Ok((sorted, order))
    }

    fn check_size(&self) -> Result<(), Error> {
        if self.len() > u32::MAX as usize {
            return Err(Error::TooMany { images: self.len() });
        }
        Ok(())
    }

    /// A SHA-256, hexadecimal, of all ids, labels and keys in the order of reading, so that a continued run finds the
    /// source as it was.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for position in 0..self.len() {
            let (id, label) = (self.id(position), self.label(position));
            hash.update(format!("{id} {label} {}\n", self.key(position)));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        let mut listing = Listing::default();
        for (key, label) in [("b/2", 1), ("a/9", 0), ("b/10", 1), ("a/1", 0)] {
            listing.push(key, label);
        }
        listing
    }

    #[test]
    fn ids_are_ranks_whatever_the_order_of_reading() {
        let stored = listing().in_storage_order().unwrap();
        let (sorted, order) = listing().in_canonical_order().unwrap();
        assert_eq!(order, [3, 1, 2, 0]);
        for (position, &was) in order.iter().enumerate() {
            assert_eq!(sorted.id(position), position as u64);
            let found = stored.position(position as u64).unwrap();
            assert_eq!(found, was as usize);
            assert_eq!(
                (stored.key(found), stored.label(found)),
                (sorted.key(position), sorted.label(position))
            );
        }
        assert_eq!((stored.position(4), sorted.position(4)), (None, None));
        assert_ne!(stored.hash(), sorted.hash());
    }

    #[test]
    fn a_sorted_container_needs_no_table_of_ids() {
        let (sorted, _) = listing().in_canonical_order().unwrap();
        let mut again = Listing::default();
        (0..4).for_each(|i| again.push(sorted.key(i), sorted.label(i) as i32));
        let again = again.in_storage_order().unwrap();
        assert!(again.ids.is_empty());
        assert_eq!(again.hash(), sorted.hash());
    }
}

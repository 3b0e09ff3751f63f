//! What all processes must know alike: the plan, the state of a checkpoint, the weights.

use bytemuck::cast_slice;
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh64::xxh64;

use super::{Error, Group};

/// What `make` gives in the first process, in all of them.
///
/// # Errors
/// Those of `make`, in the first process alone: it must end the job then. [`Error::Message`] in the others.
pub fn share<T, E>(group: &mut (impl Group + ?Sized), make: impl FnOnce() -> Result<T, E>) -> Result<T, E>
where
    T: Serialize + DeserializeOwned,
    E: From<Error>,
{
    if group.ranks() == 1 {
        return make();
    }
    let rank = group.rank();
    let broken = |source| Error::Message { rank, source };
    if rank == 0 {
        let value = make()?;
        let text = serde_json::to_vec(&value).map_err(broken)?;
        share_bytes(group, text);
        return Ok(value);
    }
    Ok(serde_json::from_slice(&share_bytes(group, Vec::new())).map_err(broken)?)
}

/// The bytes of the first process, of any length.
pub fn share_bytes(group: &mut (impl Group + ?Sized), mut bytes: Vec<u8>) -> Vec<u8> {
    let mut length = (bytes.len() as u64).to_le_bytes();
    group.broadcast(&mut length);
    bytes.resize(u64::from_le_bytes(length) as usize, 0);
    group.broadcast(&mut bytes);
    bytes
}

/// Checks that all processes hold the values of the first at step `step`, bit for bit.
///
/// # Errors
/// [`Error::Drifted`], in all processes.
pub fn agree(group: &mut (impl Group + ?Sized), step: u64, buffers: &[&[f32]]) -> Result<(), Error> {
    if group.ranks() == 1 {
        return Ok(());
    }
    let mine = buffers
        .iter()
        .fold(step, |seed, buffer| xxh64(cast_slice(buffer), seed));
    let mut first = mine.to_le_bytes();
    group.broadcast(&mut first);
    let mut different = [f64::from(u8::from(first != mine.to_le_bytes()))];
    group.sum(&mut different);
    if different[0] > 0.0 {
        return Err(Error::Drifted {
            step,
            different: different[0] as usize,
            ranks: group.ranks(),
        });
    }
    Ok(())
}

//! Files made to mislead: every checksum is right, what it protects is not.

use std::{path::Path, sync::LazyLock};

use proptest::prelude::*;
use shards::{
    error::Error,
    manifest::{Compression, Dtype, Flip, Store},
};
use xxhash_rust::xxh64::xxh64;

use crate::{
    corrupt::{Content, read_all, replace},
    header, settings, write,
};

/// The contents of a shard's frames: header, rows, index.
fn frames(samples: u64) -> Vec<Vec<u8>> {
    let header = header(
        [1, 2, 4],
        settings(Store::Moments, Dtype::Int8, Flip::Both, Compression::None),
    );
    let dir = tempfile::tempdir().unwrap();
    let manifest = write(dir.path(), &header, 0..samples).unwrap();
    contents(&fs_err::read(dir.path().join(&manifest.shards[0].file)).unwrap())
}

pub(crate) fn contents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let count = word(bytes.len() - 9);
    let mut start = 0;
    (0..count)
        .map(|frame| {
            let entry = bytes.len() - 9 - 12 * (count - frame);
            let content =
                zstd::bulk::decompress(&bytes[start..start + word(entry)], word(entry + 4)).unwrap();
            start += word(entry);
            content
        })
        .collect()
}

/// A shard file of these frames; `change` may alter the words of the seek table.
fn assemble(frames: &[Vec<u8>], change: impl Fn(&mut Vec<[u32; 3]>)) -> Vec<u8> {
    let mut file = Vec::new();
    let mut table = Vec::new();
    for content in frames {
        let frame = zstd::bulk::compress(content, 1).unwrap();
        table.push([frame.len() as u32, content.len() as u32, xxh64(content, 0) as u32]);
        file.extend(frame);
    }
    change(&mut table);
    file.extend(0x184D_2A5Eu32.to_le_bytes());
    file.extend((table.len() as u32 * 12 + 9).to_le_bytes());
    file.extend(table.iter().flatten().flat_map(|word| word.to_le_bytes()));
    file.extend((table.len() as u32).to_le_bytes());
    file.push(0x80);
    file.extend(0x8F92_EAB1u32.to_le_bytes());
    file
}

fn read(path: &Path, file: &[u8]) -> Result<Content, Error> {
    replace(path, file);
    read_all(path)
}

fn replaced(frames: &[Vec<u8>], from: &str, to: &str) -> Vec<Vec<u8>> {
    let mut frames = frames.to_vec();
    let text = String::from_utf8(frames[0][8..].to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    let mut text = text.replace(from, to).into_bytes();
    text.resize(4088, b' ');
    frames[0].truncate(8);
    frames[0].extend(text);
    frames
}

#[test]
fn headers_that_claim_too_much_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors.zst");
    let frames = frames(2);
    assert!(read(&path, &assemble(&frames, |_| ())).is_ok());
    for (from, to) in [
        (r#"\"samples\":2"#, r#"\"samples\":18446744073709551615"#),
        (r#"\"samples\":2"#, r#"\"samples\":1048576"#),
        (r#"\"samples\":2"#, r#"\"samples\":0"#),
        (r#"\"samples\":2"#, r#"\"samples\":1"#),
        (r#"\"views\":2"#, r#"\"views\":3"#),
        (r#"\"shape\":[1,2,4]"#, r#"\"shape\":[4294967296,4294967296,4]"#),
        (r#"\"shape\":[1,2,4]"#, r#"\"shape\":[256,4096,4096]"#),
        (r#"\"shape\":[1,2,4]"#, r#"\"shape\":[0,2,4]"#),
        (r#"\"shape\":[1,2,4]"#, r#"\"shape\":[1,4,2]"#),
        (r#"\"frame_rows\":1"#, r#"\"frame_rows\":0"#),
        (r#"\"frame_rows\":1"#, r#"\"frame_rows\":1048576"#),
        (r#"\"key_bytes\":"#, r#"\"key_bytes\":1844674407370955"#),
        (r#"\"format_version\":1"#, r#"\"format_version\":2"#),
        (r#"\"dtype\":\"int8\""#, r#"\"dtype\":\"f64\""#),
        (r#"\"store\":\"moments\""#, r#"\"store\":\"mean\""#),
    ] {
        let file = assemble(&replaced(&frames, from, to), |_| ());
        let result = read(&path, &file);
        // A header may be wrong in its own words and right in its numbers: then it is another sound shard.
        if to != r#"\"shape\":[1,4,2]"# {
            assert!(result.is_err(), "{to}");
        }
    }
}

#[test]
fn seek_tables_that_claim_too_much_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors.zst");
    let frames = frames(2);
    for (frame, word, value) in [
        (0, 0, u32::MAX),
        (1, 0, 0),
        (0, 1, u32::MAX),
        (1, 1, u32::MAX),
        (5, 1, u32::MAX),
        (5, 1, 0),
        (1, 2, 0),
    ] {
        let file = assemble(&frames, |table| table[frame][word] = value);
        assert!(read(&path, &file).is_err(), "frame {frame} word {word}");
    }
    let file = assemble(&frames, |table| table.truncate(2));
    assert!(read(&path, &file).is_err());
    let file = assemble(&frames, |table| table.push([0, 0, 0]));
    assert!(read(&path, &file).is_err());
    let file = assemble(&[], |_| ());
    assert!(read(&path, &file).is_err());
    let mut claims = assemble(&frames, |_| ());
    let count = claims.len() - 9;
    claims[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(read(&path, &claims).is_err());
}

#[test]
fn keys_that_do_not_fit_their_ends_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors.zst");
    let frames = frames(2);
    let index = frames.len() - 1;
    // The index: id, label, squared error, key end of two samples each, then the keys `class0/image ü0.png...`.
    for (at, bytes) in [
        (48, u64::MAX.to_le_bytes().to_vec()),
        (48, 14u64.to_le_bytes().to_vec()),
        (56, 3u64.to_le_bytes().to_vec()),
        (64, vec![0xFF]),
    ] {
        let mut frames = frames.clone();
        frames[index][at..at + bytes.len()].copy_from_slice(&bytes);
        assert!(read(&path, &assemble(&frames, |_| ())).is_err(), "{at} {bytes:?}");
    }
}

static FRAMES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| frames(2));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_content_with_the_right_checksum_makes_the_reader_panic(
        changes in proptest::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of((0usize..6, any::<prop::sample::Index>())),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = FRAMES.clone();
        for (frame, at, byte) in changes {
            let at = at.index(frames[frame].len());
            frames[frame][at] = byte;
        }
        if let Some((frame, at)) = cut {
            let at = at.index(frames[frame].len());
            frames[frame].truncate(at);
        }
        let _ = read(&dir.path().join("x.safetensors.zst"), &assemble(&frames, |_| ()));
    }
}

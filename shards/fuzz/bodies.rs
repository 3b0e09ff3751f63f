//! What the fuzz targets do with their input, and the test that replays their corpus: opening and reading everything
//! must not panic, nor allocate what is not there.

use std::path::Path;

use shards::reader::ShardReader;
use xxhash_rust::xxh64::xxh64;

/// The input is the file.
pub(super) fn shard(data: &[u8]) {
    read(data.to_vec());
}

/// The input is the content of the frames, each after its length (u16); seek table and checksums are made right.
pub(super) fn frames(mut data: &[u8]) {
    let (mut file, mut table, mut count) = (Vec::new(), Vec::new(), 0u32);
    while let Some((&length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(length)).min(rest.len());
        let (content, rest) = rest.split_at(length);
        data = rest;
        // One raw block: the frame is 9 + 3 + 4 bytes longer than its content.
        let checksum = xxh64(content, 0) as u32;
        file.extend([0x28, 0xB5, 0x2F, 0xFD, 0b1010_0100]);
        file.extend((length as u32).to_le_bytes());
        file.extend(&(((length as u32) << 3) | 1).to_le_bytes()[..3]);
        file.extend(content);
        file.extend(checksum.to_le_bytes());
        for word in [length as u32 + 16, length as u32, checksum] {
            table.extend(word.to_le_bytes());
        }
        count += 1;
    }
    file.extend(0x184D_2A5Eu32.to_le_bytes());
    file.extend((table.len() as u32 + 9).to_le_bytes());
    file.extend(table);
    file.extend(count.to_le_bytes());
    file.push(0x80);
    file.extend(0x8F92_EAB1u32.to_le_bytes());
    read(file);
}

fn read(file: Vec<u8>) {
    let Ok(reader) = ShardReader::from_bytes(Path::new("input"), file) else {
        return;
    };
    let layout = reader.header().row_layout();
    let (mut mean, mut logvar) = (vec![0.0; layout.elements()], vec![0.0; layout.elements()]);
    for sample in 0..reader.len() {
        assert!(reader.key(sample).is_some());
        for view in 0..reader.header().views as usize {
            let logvar = layout.logvar.then_some(&mut logvar[..]);
            let _ = reader.read(sample, view, &mut mean, logvar);
        }
    }
    for frame in 0..reader.frames() {
        let _ = reader.check_frame(frame);
    }
}

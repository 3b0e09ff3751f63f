//! The little of MATLAB's MAT-files (level 5) that the ILSVRC devkit needs: the fields of one array of structures.
//!
//! Elements are a type (u32), a length (u32) and data padded to 8 bytes; short ones share 8 bytes with their data. An
//! element of type 15 is another one, compressed by zlib. (MathWorks, "MAT-File Format", chapter 1.)

use std::io::Read;

/// Larger files are no devkit's: its own is 80 kB.
const MAX_BYTES: u64 = 64 << 20;
const HEADER_BYTES: usize = 128;
const COMPRESSED: u32 = 15;
const MATRIX: u32 = 14;
const CLASS_STRUCT: u8 = 2;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Text(String),
    /// Anything else.
    Other,
}

/// The fields of one structure, in order.
type Structure = Vec<(String, Value)>;

struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

/// The elements of the first array of structures: for each, its fields in order.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn structures(file: &[u8]) -> Result<Vec<Structure>, String> {
    let mut rest = file.get(HEADER_BYTES..).ok_or("it is shorter than its header")?;
    if file[126..128] != *b"IM" {
        return Err("it is no little-endian MAT-file of level 5".to_owned());
    }
    while !rest.is_empty() {
        let element = element(&mut rest)?;
        let mut inflated = Vec::new();
        let matrix = if element.kind == COMPRESSED {
            flate2::read::ZlibDecoder::new(element.data)
                .take(MAX_BYTES)
                .read_to_end(&mut inflated)
                .map_err(|error| format!("zlib: {error}"))?;
            self::element(&mut &inflated[..])?
        } else {
            element
        };
        if matrix.kind == MATRIX
            && let Some(found) = structure_array(matrix.data)?
        {
            return Ok(found);
        }
    }
    Err("it holds no array of structures".to_owned())
}

/// Takes the next element off `rest`.
fn element<'a>(rest: &mut &'a [u8]) -> Result<Element<'a>, String> {
    let short = || "it ends within an element".to_owned();
    let (tag, after) = rest.split_at_checked(8).ok_or_else(short)?;
    let kind = u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]);
    if kind >> 16 != 0 {
        let length = (kind >> 16) as usize;
        *rest = after;
        let data = tag.get(4..4 + length).ok_or_else(short)?;
        return Ok(Element {
            kind: kind & 0xFFFF,
            data,
        });
    }
    let length = u32::from_le_bytes([tag[4], tag[5], tag[6], tag[7]]) as usize;
    let data = after.get(..length).ok_or_else(short)?;
    // Compressed elements are not padded; the last may lack its padding.
    let padded = if kind == COMPRESSED {
        length
    } else {
        length.next_multiple_of(8)
    };
    *rest = after.get(padded..).unwrap_or_default();
    Ok(Element { kind, data })
}

/// The class of a matrix, the number of its elements, and what follows its name.
fn head(data: &[u8]) -> Result<(u8, usize, &[u8]), String> {
    let mut rest = data;
    let class = *element(&mut rest)?.data.first().ok_or("an array without flags")?;
    let count = element(&mut rest)?
        .data
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&side| u32::from_le_bytes(side) as usize)
        .try_fold(1usize, usize::checked_mul)
        .ok_or("an array of absurd size")?;
    element(&mut rest)?;
    Ok((class, count, rest))
}

fn structure_array(data: &[u8]) -> Result<Option<Vec<Structure>>, String> {
    let (class, count, mut rest) = head(data)?;
    if class != CLASS_STRUCT {
        return Ok(None);
    }
    let length = element(&mut rest)?;
    let length = length.data.first().map_or(0, |&length| usize::from(length));
    let names = element(&mut rest)?.data;
    if length == 0 || names.is_empty() {
        return Err("a structure without fields".to_owned());
    }
    let names: Vec<String> = names.chunks(length).map(text).collect();
    let mut all = Vec::new();
    for _ in 0..count {
        let mut fields = Vec::with_capacity(names.len());
        for name in &names {
            fields.push((name.clone(), value(element(&mut rest)?.data)?));
        }
        all.push(fields);
    }
    Ok(Some(all))
}

fn value(data: &[u8]) -> Result<Value, String> {
    if data.is_empty() {
        return Ok(Value::Other);
    }
    let (class, count, mut rest) = head(data)?;
    let is_text = class == 4;
    let is_number = (6..=15).contains(&class) && count == 1;
    if !is_text && !is_number {
        return Ok(Value::Other);
    }
    // Numbers are stored in the narrowest type that holds them, whatever the array's own class.
    let stored = element(&mut rest)?;
    let numbers: Vec<f64> = match stored.kind {
        1 => stored.data.iter().map(|&v| f64::from(v as i8)).collect(),
        2 | 16 => stored.data.iter().map(|&v| f64::from(v)).collect(),
        3 => each(stored.data, |b| f64::from(i16::from_le_bytes(b))),
        4 | 17 => each(stored.data, |b| f64::from(u16::from_le_bytes(b))),
        5 => each(stored.data, |b| f64::from(i32::from_le_bytes(b))),
        6 => each(stored.data, |b| f64::from(u32::from_le_bytes(b))),
        7 => each(stored.data, |b| f64::from(f32::from_le_bytes(b))),
        9 => each(stored.data, f64::from_le_bytes),
        _ => return Ok(Value::Other),
    };
    if is_text {
        let characters = numbers.iter().filter_map(|&code| char::from_u32(code as u32));
        return Ok(Value::Text(characters.collect()));
    }
    Ok(numbers
        .first()
        .map_or(Value::Other, |&number| Value::Number(number)))
}

fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks::<N>().0.iter().map(|&bytes| read(bytes)).collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &[u8] = include_bytes!("../../../tests/data/meta.mat");

    #[test]
    fn the_devkits_fields_are_read() {
        let all = structures(META).unwrap();
        let field = |i: usize, name: &str| {
            let found = all[i]
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.clone());
            found.unwrap()
        };
        assert_eq!(all.len(), 5);
        assert_eq!(field(3, "WNID"), Value::Text("n00001740".into()));
        assert_eq!(
            (field(3, "ILSVRC2012_ID"), field(3, "num_children")),
            (Value::Number(300.0), Value::Number(2.0))
        );
        assert_eq!(
            (field(0, "words"), field(3, "children")),
            (Value::Text("kit fox".into()), Value::Other)
        );
    }

    #[test]
    fn damaged_files_are_errors_or_fields_and_never_more() {
        for length in 0..META.len() {
            let _ = structures(&META[..length]);
        }
        // The content is compressed: damage it behind the compression.
        let mut content = Vec::new();
        flate2::read::ZlibDecoder::new(&META[HEADER_BYTES + 8..])
            .read_to_end(&mut content)
            .unwrap();
        for i in 0..content.len() {
            for change in [1, 0x80, 0xFF] {
                let mut file = META[..HEADER_BYTES].to_vec();
                file.extend(&content);
                file[HEADER_BYTES + i] ^= change;
                let _ = structures(&file);
            }
        }
    }
}

//! PyTorch's checkpoint format before 1.6: five pickles and raw storages in one stream.
//!
//! In order: a pickle of the magic number, one of the protocol (1001), one of system facts, one of the state dict whose
//! tensors name their storages by persistent id (type, key, device, count, view), one of the list of keys, and for each
//! key an i64 element count and the little-endian values. Nothing of a pickle is executed: only the constructors of
//! ordered dicts and tensors are known, everything else is an error.

use std::collections::HashMap;
use std::path::Path;

use super::weights::Tensors;
use crate::error::{Error, Result};

const MAGIC_NUMBER: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;
/// Deepest stack and longest memo that are accepted; the real file needs a few thousand.
const MAX_ITEMS: usize = 1 << 20;

/// A value of the few kinds that a state dict is made of.
#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Bool,
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(Vec<u8>),
    Float,
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(String),
    /// `storage[offset..]` viewed through shape and strides.
    Tensor(TensorView),
    Storage(Storage),
}

#[derive(Debug, Clone)]
struct Storage {
    element: Element,
    key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    F64,
    F32,
    F16,
    I64,
}

impl Element {
    fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    fn of_storage(class: &str) -> Option<Self> {
        match class {
            "torch.DoubleStorage" => Some(Self::F64),
            "torch.FloatStorage" => Some(Self::F32),
            "torch.HalfStorage" => Some(Self::F16),
            "torch.LongStorage" => Some(Self::I64),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
struct TensorView {
    storage: Storage,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Reads all tensors of a state dict.
///
/// # Errors
/// If the file is not in this format, is cut short, or holds anything but a state dict of tensors.
pub fn read(path: &Path) -> Result<Tensors> {
    let bytes = fs_err::read(path).map_err(Error::io(path))?;
    parse(&bytes).map_err(|what| Error::format(path, what))
}

fn parse(bytes: &[u8]) -> std::result::Result<Tensors, String> {
    let mut stream = Stream { bytes, position: 0 };
    match stream.pickle()? {
        Value::Long(magic) if magic.starts_with(&MAGIC_NUMBER) => {}
        _ => return Err("not a PyTorch checkpoint of the legacy format (wrong magic number)".into()),
    }
    match stream.pickle()? {
        Value::Int(PROTOCOL) => {}
        other => {
            return Err(format!(
                "legacy protocol {other:?} is not known; {PROTOCOL} was expected"
            ));
        }
    }
    stream.pickle()?;
    let Value::Dict(entries) = stream.pickle()? else {
        return Err("the checkpoint is not a state dict".into());
    };
    let mut views = Vec::new();
    for (key, value) in entries {
        match (key, value) {
            (Value::Text(name), Value::Tensor(view)) => views.push((name, view)),
            (key, _) => return Err(format!("the state dict's entry {key:?} is not a tensor")),
        }
    }
    let Value::List(keys) = stream.pickle()? else {
        return Err("the list of storages is missing".into());
    };
    let elements: HashMap<&str, Element> = views
        .iter()
        .map(|(_, view)| (view.storage.key.as_str(), view.storage.element))
        .collect();
    let mut storages = HashMap::new();
    for key in keys {
        let Value::Text(key) = key else {
            return Err("a storage's key is not text".into());
        };
        let element = *elements
            .get(key.as_str())
            .ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let count =
            usize::try_from(i64::from_le_bytes(stream.array()?)).map_err(|_| "negative storage size")?;
        let size = count
            .checked_mul(element.size())
            .ok_or("a storage is impossibly large")?;
        storages.insert(key, stream.take(size)?);
    }
    views
        .into_iter()
        .map(|(name, view)| {
            let storage = storages
                .get(&view.storage.key)
                .ok_or_else(|| format!("tensor `{name}` refers to a storage that is not there"))?;
            let values = view
                .values(storage)
                .ok_or_else(|| format!("tensor `{name}` reaches beyond its storage"))?;
            Ok((name, (view.shape, values)))
        })
        .collect()
}

impl TensorView {
    /// The values in row-major order, or nothing if the view leaves its storage.
    fn values(&self, storage: &[u8]) -> Option<Vec<f32>> {
        let available = storage.len() / self.storage.element.size();
        let count = self
            .shape
            .iter()
            .try_fold(1_usize, |count, &dim| count.checked_mul(dim))?;
        if count == 0 {
            return Some(Vec::new());
        }
        let mut last = self.offset;
        for (&dim, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((dim - 1).checked_mul(stride)?)?;
        }
        // Overlapping views do not occur in weights, and would let a small file claim much memory.
        if last >= available || count > available {
            return None;
        }
        let mut index = vec![0; self.shape.len()];
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let at = self.offset
                + index
                    .iter()
                    .zip(&self.strides)
                    .map(|(i, stride)| i * stride)
                    .sum::<usize>();
            values.push(element_at(storage, self.storage.element, at));
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Some(values)
    }
}

fn element_at(storage: &[u8], element: Element, at: usize) -> f32 {
    let bytes = &storage[at * element.size()..][..element.size()];
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let word = u64::from_le_bytes(word);
    match element {
        Element::F64 => f64::from_bits(word) as f32,
        Element::F32 => f32::from_bits(word as u32),
        Element::F16 => half::f16::from_bits(word as u16).to_f32(),
        Element::I64 => word as i64 as f32,
    }
}

struct Stream<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Stream<'a> {
    fn take(&mut self, count: usize) -> std::result::Result<&'a [u8], String> {
        let end = self
            .position
            .checked_add(count)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("cut short at byte {}", self.position))?;
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> std::result::Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> std::result::Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> std::result::Result<String, String> {
        let rest = &self.bytes[self.position..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("cut short in a name")?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn text(&mut self, length: usize) -> std::result::Result<Value, String> {
        Ok(Value::Text(
            String::from_utf8_lossy(self.take(length)?).into_owned(),
        ))
    }

    /// Interprets one pickle (protocols 2 to 4, the operations that state dicts use).
    fn pickle(&mut self) -> std::result::Result<Value, String> {
        let mut stack: Vec<Value> = Vec::new();
        let mut memo: HashMap<u32, Value> = HashMap::new();
        loop {
            if stack.len() > MAX_ITEMS || memo.len() > MAX_ITEMS {
                return Err("a pickle is impossibly large".into());
            }
            let start = self.position;
            let value = match self.byte()? {
                0x80 => {
                    self.byte()?;
                    continue;
                }
                0x95 => {
                    self.take(8)?;
                    continue;
                }
                b'.' => return pop(&mut stack),
                b'(' => Value::Mark,
                b'N' => Value::None,
                0x88 | 0x89 => Value::Bool,
                b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
                b'K' => Value::Int(self.byte()?.into()),
                b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
                0x8a => {
                    let length = self.byte()?.into();
                    long(self.take(length)?)
                }
                b'G' => {
                    self.take(8)?;
                    Value::Float
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.text(length)?
                }
                0x8c | b'U' => {
                    let length = self.byte()?.into();
                    self.text(length)?
                }
                b'}' => Value::Dict(Vec::new()),
                b']' => Value::List(Vec::new()),
                b')' => Value::Tuple(Vec::new()),
                b't' => Value::Tuple(pop_to_mark(&mut stack)?),
                count @ 0x85..=0x87 => {
                    let items = usize::from(count - 0x84);
                    let first = stack
                        .len()
                        .checked_sub(items)
                        .ok_or("a pickle takes from an empty stack")?;
                    Value::Tuple(stack.split_off(first))
                }
                b'c' => Value::Global(format!("{}.{}", self.line()?, self.line()?)),
                0x93 => match (pop(&mut stack)?, pop(&mut stack)?) {
                    (Value::Text(name), Value::Text(module)) => Value::Global(format!("{module}.{name}")),
                    _ => return Err("a constructor's name is not text".into()),
                },
                b'Q' => storage(pop(&mut stack)?)?,
                b'R' => {
                    let arguments = pop(&mut stack)?;
                    construct(pop(&mut stack)?, arguments)?
                }
                // The state of an ordered dict (module versions) says nothing about tensors.
                b'b' => {
                    pop(&mut stack)?;
                    continue;
                }
                b's' => {
                    let (value, key) = (pop(&mut stack)?, pop(&mut stack)?);
                    set_items(&mut stack, vec![key, value])?;
                    continue;
                }
                b'u' => {
                    let items = pop_to_mark(&mut stack)?;
                    set_items(&mut stack, items)?;
                    continue;
                }
                b'a' => {
                    let item = pop(&mut stack)?;
                    append(&mut stack, vec![item])?;
                    continue;
                }
                b'e' => {
                    let items = pop_to_mark(&mut stack)?;
                    append(&mut stack, items)?;
                    continue;
                }
                memoize @ (b'q' | b'r' | 0x94) => {
                    let index = match memoize {
                        b'q' => self.byte()?.into(),
                        b'r' => u32::from_le_bytes(self.array()?),
                        _ => memo.len() as u32,
                    };
                    // Only what is complete when it is stored is ever fetched again.
                    let value = match stack.last().ok_or("a pickle takes from an empty stack")? {
                        Value::Dict(_) => Value::Dict(Vec::new()),
                        Value::List(_) => Value::List(Vec::new()),
                        value => value.clone(),
                    };
                    memo.insert(index, value);
                    continue;
                }
                fetch @ (b'h' | b'j') => {
                    let index = if fetch == b'h' {
                        self.byte()?.into()
                    } else {
                        u32::from_le_bytes(self.array()?)
                    };
                    memo.get(&index).cloned().ok_or("a pickle refers to nothing")?
                }
                other => {
                    return Err(format!(
                        "pickle operation {other:#04x} at byte {start} is not accepted"
                    ));
                }
            };
            stack.push(value);
        }
    }
}

fn pop(stack: &mut Vec<Value>) -> std::result::Result<Value, String> {
    stack
        .pop()
        .ok_or_else(|| "a pickle takes from an empty stack".to_owned())
}

fn pop_to_mark(stack: &mut Vec<Value>) -> std::result::Result<Vec<Value>, String> {
    let mark = stack
        .iter()
        .rposition(|value| matches!(value, Value::Mark))
        .ok_or("a pickle's mark is missing")?;
    let items = stack.split_off(mark + 1);
    stack.pop();
    Ok(items)
}

fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(bytes.to_vec());
    }
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) {
        0xff
    } else {
        0
    };
    let mut word = [fill; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(word))
}

fn set_items(stack: &mut [Value], items: Vec<Value>) -> std::result::Result<(), String> {
    let Some(Value::Dict(entries)) = stack.last_mut() else {
        return Err("items are set on no dict".into());
    };
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        entries.push((key, value));
    }
    Ok(())
}

fn append(stack: &mut [Value], items: Vec<Value>) -> std::result::Result<(), String> {
    let Some(Value::List(list)) = stack.last_mut() else {
        return Err("items are appended to no list".into());
    };
    list.extend(items);
    Ok(())
}

/// `('storage', class, key, device, count, view)`.
fn storage(id: Value) -> std::result::Result<Value, String> {
    let Value::Tuple(parts) = id else {
        return Err("a storage's id is not a tuple".into());
    };
    match &parts[..] {
        [Value::Text(kind), Value::Global(class), Value::Text(key), ..] if kind == "storage" => {
            let element =
                Element::of_storage(class).ok_or_else(|| format!("storages of `{class}` are not read"))?;
            if parts.get(5).is_some_and(|view| !matches!(view, Value::None)) {
                return Err("views of storages are not read".into());
            }
            Ok(Value::Storage(Storage {
                element,
                key: key.clone(),
            }))
        }
        _ => Err("a storage's id is not understood".into()),
    }
}

fn construct(function: Value, arguments: Value) -> std::result::Result<Value, String> {
    let (Value::Global(name), Value::Tuple(mut arguments)) = (function, arguments) else {
        return Err("a pickle calls something that is no function".into());
    };
    match name.as_str() {
        "collections.OrderedDict" => Ok(Value::Dict(Vec::new())),
        "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => tensor(&arguments),
        "torch._utils._rebuild_parameter" if !arguments.is_empty() => Ok(arguments.swap_remove(0)),
        other => Err(format!(
            "the file calls `{other}`, which no state dict of weights needs; it is not executed"
        )),
    }
}

fn tensor(arguments: &[Value]) -> std::result::Result<Value, String> {
    match arguments {
        [
            Value::Storage(storage),
            Value::Int(offset),
            Value::Tuple(shape),
            Value::Tuple(strides),
            ..,
        ] if shape.len() == strides.len() => Ok(Value::Tensor(TensorView {
            storage: storage.clone(),
            offset: usize::try_from(*offset).map_err(|_| "a tensor's offset is negative")?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        })),
        _ => Err("a tensor's description is not understood".into()),
    }
}

fn sizes(values: &[Value]) -> std::result::Result<Vec<usize>, String> {
    values
        .iter()
        .map(|value| match value {
            Value::Int(size) => usize::try_from(*size).map_err(|_| "a size is negative".to_owned()),
            _ => Err("a size is not a number".to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by PyTorch: `torch.save(state, path, _use_new_zipfile_serialization=False)` with tensors `a` = [[0, 1,
    /// 2], [3, 4, 5]] + 0.5, `t` = a's transpose (same storage), `h` = [1.5, -2] in f16 and `n` = 7 in i64.
    const CHECKPOINT: &[u8] = include_bytes!("testdata/legacy.pth");
    /// The same state in the zip format.
    const ZIPPED: &[u8] = include_bytes!("testdata/zipped.pth");

    #[test]
    fn what_pytorch_wrote_is_read() {
        let tensors = parse(CHECKPOINT).unwrap();
        assert_eq!(tensors["a"], (vec![2, 3], vec![0.5, 1.5, 2.5, 3.5, 4.5, 5.5]));
        assert_eq!(tensors["t"], (vec![3, 2], vec![0.5, 3.5, 1.5, 4.5, 2.5, 5.5]));
        assert_eq!(tensors["h"], (vec![2], vec![1.5, -2.0]));
        assert_eq!(tensors["n"], (vec![], vec![7.0]));
    }

    #[test]
    fn both_formats_of_pytorch_give_the_same_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let (legacy, zipped) = (folder.path().join("legacy.pth"), folder.path().join("zipped.pth"));
        fs_err::write(&legacy, CHECKPOINT).unwrap();
        fs_err::write(&zipped, ZIPPED).unwrap();
        let read = super::super::weights::read_tensors;
        let (legacy, zipped) = (read(&legacy).unwrap(), read(&zipped).unwrap());
        for name in ["a", "h"] {
            assert_eq!(legacy[name], zipped[name]);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        for length in 0..CHECKPOINT.len() {
            assert!(parse(&CHECKPOINT[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        for at in 0..CHECKPOINT.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = CHECKPOINT.to_vec();
                damaged[at] ^= flip;
                let _ = parse(&damaged);
            }
        }
    }

    #[test]
    fn foreign_functions_are_not_executed() {
        let call = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.";
        let message = Stream {
            bytes: call,
            position: 0,
        }
        .pickle()
        .unwrap_err();
        assert!(message.contains("posix.system"), "{message}");
    }
}

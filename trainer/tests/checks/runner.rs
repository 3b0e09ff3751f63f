//! What tests launch, and what it gives.

use half::bf16;
use trainer::gpu::Element;

/// A buffer: bytes of an element, and all of its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bytes {
    pub(crate) granule: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Bytes {
    pub(crate) fn new(granule: usize, bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self { granule, bytes }
    }

    /// `count` elements of a plain type, zeros.
    pub(crate) fn zeros<T: bytemuck::Pod>(count: usize) -> Self {
        vec![T::zeroed(); count][..].into()
    }
}

impl<T: bytemuck::Pod> From<&[T]> for Bytes {
    fn from(values: &[T]) -> Self {
        Self::new(size_of::<T>(), bytemuck::cast_slice(values))
    }
}

/// A kernel and what it is launched with.
pub(crate) type Launch = trainer::gpu::Launch<Bytes>;

/// Numbers of an activations' type.
pub(crate) trait Numbers {
    /// The numbers that this type can hold nearest to some.
    fn rounded(self, values: &[f32]) -> Vec<f32>;

    /// A buffer of this type.
    fn buffer(self, values: &[f32]) -> Bytes;

    /// A buffer of so many zeros.
    fn zeros(self, count: usize) -> Bytes;

    /// Half of the distance between neighbours near 1: what rounding to this type may add.
    fn epsilon(self) -> f64;
}

impl Numbers for Element {
    fn rounded(self, values: &[f32]) -> Vec<f32> {
        match self {
            Self::F32 => values.to_vec(),
            Self::Bf16 => values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
        }
    }

    fn buffer(self, values: &[f32]) -> Bytes {
        match self {
            Self::F32 => values.into(),
            Self::Bf16 => {
                let bits: Vec<u16> = values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
                bits[..].into()
            }
        }
    }

    fn zeros(self, count: usize) -> Bytes {
        self.buffer(&vec![0.0; count])
    }

    fn epsilon(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Bf16 => 1.0 / 256.0,
        }
    }
}

/// What a launch gave.
pub(crate) struct Run {
    /// Every buffer after the launch.
    pub(crate) buffers: Vec<Vec<u8>>,
}

impl Run {
    /// Buffer `index` as numbers of a plain type.
    pub(crate) fn get<T: bytemuck::AnyBitPattern>(&self, index: usize) -> Vec<T> {
        bytemuck::pod_collect_to_vec::<u8, u8>(&self.buffers[index])
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }

    pub(crate) fn f32s(&self, index: usize) -> Vec<f32> {
        self.get(index)
    }

    /// Buffer `index` of an activations' type.
    pub(crate) fn values(&self, kind: Element, index: usize) -> Vec<f32> {
        match kind {
            Element::F32 => self.f32s(index),
            Element::Bf16 => self
                .get::<u16>(index)
                .into_iter()
                .map(|bits| bf16::from_bits(bits).to_f32())
                .collect(),
        }
    }
}

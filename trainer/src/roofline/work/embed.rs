//! The work of the kernels around the chain of blocks: `embed.cu`, `patch.cu`.

use super::{F32, Work, product};

/// Operations of a sigmoid.
const SIGMOID: u64 = 16;
/// Bytes of a timestep or label.
const INT: u64 = 4;

/// `broadcast_rows_f32`; `period` rows of positions, or none. Every element reads its own: biases and positions come from the
/// cache but once.
pub fn broadcast_rows(rows: usize, period: usize, cols: usize) -> Work {
    let count = product(&[rows, cols]);
    let (reads, once) = if period > 0 {
        (2 * count, product(&[period.min(rows) + 1, cols]))
    } else {
        (count, cols as u64)
    };
    Work {
        read: reads * F32,
        written: count * F32,
        cached: (reads - once) * F32,
        flops: reads - count,
        ..Work::default()
    }
}

/// `timestep_features`: few numbers, in f64.
pub fn timestep_features(batch: usize, width: usize, element: usize) -> Work {
    let count = product(&[batch, width]);
    Work {
        read: count * (INT + F32),
        written: count * element as u64,
        cached: (count - batch as u64) * (INT + F32),
        flops: count * 64,
        ..Work::default()
    }
}

/// `silu`, with or without rows of a table; every element reads its bias and label.
pub fn silu(rows: usize, cols: usize, with_table: bool, element: usize) -> Work {
    let count = product(&[rows, cols]);
    let (table, labels) = if with_table {
        (count * (F32 + INT), (count - rows as u64) * INT)
    } else {
        (0, 0)
    };
    Work {
        read: 2 * count * F32 + table,
        written: count * (F32 + element as u64),
        cached: (count - cols as u64) * F32 + labels,
        flops: count * (SIGMOID + 3),
        ..Work::default()
    }
}

/// `silu_backward_f32`, with or without what is added.
pub fn silu_backward(count: usize, with_direct: bool) -> Work {
    let count = count as u64;
    Work {
        read: count * F32 * if with_direct { 3 } else { 2 },
        written: count * F32,
        flops: count * (SIGMOID + 6),
        ..Work::default()
    }
}

/// `add_label_rows_f32`: every thread reads all labels.
pub fn add_label_rows(batch: usize, cols: usize) -> Work {
    let count = product(&[batch, cols]);
    Work {
        read: 2 * count * F32 + count * INT,
        written: count * F32,
        cached: (count - batch as u64) * INT,
        flops: count,
        ..Work::default()
    }
}

/// `tokens_of_images`.
pub fn tokens_of_images(count: usize, element: usize) -> Work {
    Work {
        read: count as u64 * F32,
        written: count as u64 * element as u64,
        ..Work::default()
    }
}

/// `images_of_tokens_f32`.
pub fn images_of_tokens(count: usize) -> Work {
    Work {
        read: count as u64 * F32,
        written: count as u64 * F32,
        ..Work::default()
    }
}

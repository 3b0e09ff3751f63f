//! What a GPU needs of the host's memory.

mod in_flight;
#[cfg(feature = "cuda")]
mod pinned;

pub use in_flight::{Fence, InFlight};
#[cfg(feature = "cuda")]
pub use pinned::{PinnedBuffers, upload};

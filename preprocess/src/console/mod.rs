//! What the programs show: text, progress, image grids and line plots. Shared by all binaries of the workspace.

pub mod count;
pub mod exit;
mod font;
pub mod grid;
pub mod plot;
pub mod printer;
pub mod progress;

pub use printer::{JsonTarget, Printer};
pub use progress::Progress;

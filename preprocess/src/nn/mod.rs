//! The few layers of convolutional networks, NHWC, on the processor.

pub mod synthetic;

//! Stages and bounded channels: read, decode and crop, encode, write.

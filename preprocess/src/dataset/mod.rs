//! Data sets: an ordered list of (key, label) with the encoded bytes of each image.

//! The command line of `preprocess`.

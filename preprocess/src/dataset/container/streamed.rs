//! Reads by position from what can only be read from front to back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::Container;

/// Images that were passed over and may still be asked for, at most: threads that take positions in turn are never
/// further apart.
const PASSED_OVER: usize = 256;

/// A stream of images in the order of the listing.
pub(crate) trait Streaming: Debug + Send {
    /// Starts anew so that [`Streaming::next`] gives the image at `position`, or one not far before it; answers which.
    fn start_at(&mut self, position: usize) -> io::Result<usize>;

    /// The next image.
    fn next(&mut self) -> io::Result<Vec<u8>>;
}

/// Serves several threads from one stream, as long as their positions stay close to each other and rise.
#[derive(Debug)]
pub(crate) struct Streamed<S> {
    state: Mutex<State<S>>,
}

#[derive(Debug)]
struct State<S> {
    stream: S,
    /// The position of the stream's next image; `None` before the first and after an error.
    next: Option<usize>,
    passed: BTreeMap<usize, Vec<u8>>,
}

/// How far ahead it is worth to read on instead of starting anew.
const NEAR: usize = 64;

impl<S: Streaming> Streamed<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            state: Mutex::new(State {
                stream,
                next: None,
                passed: BTreeMap::new(),
            }),
        }
    }
}

impl<S: Streaming> Container for Streamed<S> {
    fn read(&self, position: usize, _key: &str) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        if let Some(bytes) = state.passed.remove(&position) {
            return Ok(bytes);
        }
        let mut at = match state.next.take() {
            Some(next) if (next..=next + NEAR).contains(&position) => next,
            _ => {
                state.passed.clear();
                state.stream.start_at(position)?
            }
        };
        while at < position {
            let bytes = state.stream.next()?;
            state.passed.insert(at, bytes);
            if state.passed.len() > PASSED_OVER {
                state.passed.pop_first();
            }
            at += 1;
        }
        let bytes = state.stream.next()?;
        state.next = Some(at + 1);
        Ok(bytes)
    }

    fn is_streamed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Numbers {
        at: usize,
        starts: usize,
    }

    impl Streaming for Numbers {
        fn start_at(&mut self, position: usize) -> io::Result<usize> {
            self.starts += 1;
            self.at = position / 10 * 10;
            Ok(self.at)
        }

        fn next(&mut self) -> io::Result<Vec<u8>> {
            self.at += 1;
            Ok((self.at - 1).to_le_bytes().to_vec())
        }
    }

    #[test]
    fn any_order_gives_the_right_image_and_rising_ones_start_once() {
        let stream = Streamed::new(Numbers::default());
        for position in [3, 5, 4, 6, 9, 8, 7, 30, 12] {
            assert_eq!(stream.read(position, "").unwrap(), position.to_le_bytes());
        }
        assert_eq!(stream.state.lock().unwrap().stream.starts, 1);
        for position in [200, 2, 500] {
            assert_eq!(stream.read(position, "").unwrap(), position.to_le_bytes());
        }
        assert_eq!(stream.state.lock().unwrap().stream.starts, 4);
    }
}

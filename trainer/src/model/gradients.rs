//! The flat gradient buffer while a backward pass fills it, from its end to its start.

/// The part of the flat gradient buffer that the backward still adds to.
///
/// Parameters lie in the order of execution, so that the backward finishes the buffer from its end: whatever is final is
/// cut off and handed over, for instance to be summed over processes, while the rest is still being written. The two
/// parts are different borrows of one buffer, which is all that makes it sound.
pub struct Gradients<'g, 'f> {
    unfinished: &'g mut [f32],
    min_len: usize,
    hand_over: &'f mut dyn FnMut(&'g mut [f32]),
}

impl<'g, 'f> Gradients<'g, 'f> {
    /// All of `grads` is unfinished. `hand_over` gets its parts, the last one first; none but the last to come, the start
    /// of the buffer, is shorter than `min_len` elements.
    pub fn new(grads: &'g mut [f32], min_len: usize, hand_over: &'f mut dyn FnMut(&'g mut [f32])) -> Self {
        Self {
            unfinished: grads,
            min_len,
            hand_over,
        }
    }

    /// What is not handed over yet; offsets are those of the whole buffer.
    pub(super) fn unfinished(&mut self) -> &mut [f32] {
        self.unfinished
    }

    /// Says that nothing from element `start` on will be written again.
    pub(super) fn are_final_from(&mut self, start: usize) {
        if start > 0 && self.unfinished.len().saturating_sub(start) < self.min_len {
            return;
        }
        let (rest, done) = std::mem::take(&mut self.unfinished).split_at_mut(start);
        self.unfinished = rest;
        if !done.is_empty() {
            (self.hand_over)(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_handed_over_from_the_end_and_none_but_the_last_is_short() {
        let mut grads: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let mut parts = Vec::new();
        let mut take = |part: &mut [f32]| parts.push(part.to_vec());
        let mut gradients = Gradients::new(&mut grads, 3, &mut take);
        gradients.are_final_from(8);
        assert_eq!(gradients.unfinished().len(), 10);
        gradients.are_final_from(6);
        assert_eq!(gradients.unfinished().len(), 6);
        gradients.unfinished()[1] = 7.0;
        gradients.are_final_from(3);
        gradients.are_final_from(2);
        gradients.are_final_from(0);
        gradients.are_final_from(0);
        assert_eq!(parts, [vec![6., 7., 8., 9.], vec![3., 4., 5.], vec![0., 7., 2.]]);
    }
}

//! The making of a program.

use super::arena::Arena;
use super::{Command, Matrix, Product, Program, Slot, Space};
use crate::gpu::launch::{Element, Launch};

/// A program in the making.
#[derive(Debug, Default)]
pub struct Builder {
    commands: Vec<Command>,
    arena: Arena,
}

impl Builder {
    /// Room for `count` elements of `size` bytes, of any content, until it is given back.
    pub fn take(&mut self, count: usize, size: usize) -> Slot {
        let offset = self.arena.take(count * size);
        Slot::new(Space::Arena, offset, count, size)
    }

    /// Room for `count` f32.
    pub fn floats(&mut self, count: usize) -> Slot {
        self.take(count, 4)
    }

    /// Room for `count` activations.
    pub fn activations(&mut self, element: Element, count: usize) -> Slot {
        self.take(count, element.bytes())
    }

    /// Gives room back that nothing after this will use.
    ///
    /// # Panics
    /// When it was not taken: a mistake of the program's maker.
    pub fn give(&mut self, slot: Slot) {
        assert_eq!(slot.space, Space::Arena);
        self.arena.give(slot.offset, slot.bytes);
    }

    /// [`Builder::give`] for several.
    pub fn give_all(&mut self, slots: impl IntoIterator<Item = Slot>) {
        slots.into_iter().for_each(|slot| self.give(slot));
    }

    /// A launch.
    ///
    /// # Panics
    /// In debug builds when two of its buffers overlap and are not the same.
    pub fn launch(&mut self, launch: Launch<Slot>) {
        for (i, a) in launch.places().enumerate() {
            for b in launch.places().skip(i + 1) {
                debug_assert!(a == b || !a.overlaps(b), "{}: {a:?} and {b:?}", launch.name);
            }
        }
        self.commands.push(Command::Launch(launch));
    }

    /// `out = a b + beta out`; shapes follow from the matrices' own and `inner`, the length of the sums.
    pub fn product(&mut self, [rows, inner, cols]: [usize; 3], a: Matrix, b: Matrix, out: Matrix, beta: f32) {
        self.commands.push(Command::Product(Product {
            rows,
            cols,
            inner,
            a,
            b,
            out,
            beta,
        }));
    }

    /// Zero bytes.
    pub fn zero(&mut self, slot: Slot) {
        self.commands.push(Command::Zero(slot));
    }

    /// Anything else.
    pub fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Whether everything that was taken has been given back.
    pub fn is_all_given_back(&self) -> bool {
        self.arena.is_free()
    }

    /// The program.
    pub fn finish(self) -> Program {
        Program {
            commands: self.commands,
            arena: self.arena.bytes(),
        }
    }
}

//! The emulated device: programs of the model, run command by command.

use std::collections::HashMap;
use std::sync::Arc;

use half::bf16;
use trainer::gpu::program::{Command, Matrix, Product, Program, Slot, Space};
use trainer::gpu::{Device, DeviceError, Element, Ticket};
use trainer::ops::matmul::{Mat, matmul};

use crate::checks::runner::Bytes;
use crate::emulator::Emulator;

pub(crate) use crate::emulator::Emulator as Runner;

/// An emulated device, where there is a compiler.
pub(crate) fn open() -> Option<Box<dyn Device>> {
    EmulatedDevice::start().map(|device| Box::new(device) as Box<dyn Device>)
}

/// What memory holds before anything is written: not a number, in f32 and bf16.
const UNWRITTEN: u8 = 0xff;

/// A device whose kernels run in the emulator.
struct EmulatedDevice {
    emulator: Emulator,
    spaces: HashMap<Space, Vec<u8>>,
    orders: Vec<(Ticket, Vec<u8>)>,
    next: u64,
}

impl EmulatedDevice {
    fn start() -> Option<Self> {
        Some(Self {
            emulator: Emulator::start()?,
            spaces: HashMap::new(),
            orders: Vec::new(),
            next: 0,
        })
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        if slot.bytes == 0 {
            return &[];
        }
        &self.spaces[&slot.space][slot.offset..slot.offset + slot.bytes]
    }

    fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        if slot.bytes == 0 {
            return &mut [];
        }
        &mut self.spaces.get_mut(&slot.space).unwrap()[slot.offset..slot.offset + slot.bytes]
    }

    fn numbers(&self, matrix: &Matrix) -> Vec<f32> {
        let bytes = self.bytes(matrix.slot);
        match matrix.element {
            Element::F32 => bytemuck::pod_collect_to_vec(bytes),
            Element::Bf16 => bytes
                .chunks_exact(2)
                .map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32())
                .collect(),
        }
    }

    fn product(&mut self, product: &Product) {
        let Product {
            rows,
            cols,
            inner,
            a,
            b,
            out,
            beta,
        } = *product;
        let (left, right) = (self.numbers(&a), self.numbers(&b));
        let factor = |matrix: Matrix, values, [rows, cols]: [usize; 2]| {
            if matrix.is_transposed {
                Mat::strided(values, cols, rows, matrix.stride).t()
            } else {
                Mat::strided(values, rows, cols, matrix.stride)
            }
        };
        let mut result = self.numbers(&out);
        matmul(
            &mut result,
            out.stride,
            beta,
            factor(a, &left, [rows, inner]),
            factor(b, &right, [inner, cols]),
        );
        assert!(!out.is_transposed);
        let bytes: Vec<u8> = match out.element {
            Element::F32 => bytemuck::cast_slice(&result).to_vec(),
            Element::Bf16 => result
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
        };
        // Only what the product writes: between its rows lie others' numbers.
        let (size, target) = (out.element.bytes(), self.bytes_mut(out.slot));
        for row in 0..rows {
            let range = row * out.stride * size..(row * out.stride + cols) * size;
            target[range.clone()].copy_from_slice(&bytes[range]);
        }
    }
}

impl Device for EmulatedDevice {
    fn reserve(&mut self, space: Space, bytes: usize) -> Result<(), DeviceError> {
        let there = self.spaces.entry(space).or_default();
        if there.len() < bytes {
            *there = vec![UNWRITTEN; bytes];
        }
        Ok(())
    }

    fn write(&mut self, to: Slot, bytes: &[u8]) -> Result<(), DeviceError> {
        self.bytes_mut(to).copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Slot, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.copy_from_slice(self.bytes(from));
        Ok(())
    }

    fn order(&mut self, from: Slot) -> Result<Ticket, DeviceError> {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.orders.push((ticket, self.bytes(from).to_vec()));
        Ok(ticket)
    }

    fn fetch(&mut self, ticket: Ticket) -> Result<Vec<u8>, DeviceError> {
        let index = self.orders.iter().position(|(of, _)| *of == ticket).unwrap();
        Ok(self.orders.remove(index).1)
    }

    fn run(&mut self, program: &Arc<Program>) -> Result<(), DeviceError> {
        for command in &program.commands {
            match command {
                Command::Launch(launch) => {
                    let buffers: Vec<Slot> = launch.places().copied().collect();
                    let launch = launch.map(|slot| Bytes::new(slot.size, self.bytes(*slot)));
                    let run = self.emulator.send(&launch, false, "");
                    let run = run.unwrap_or_else(|error| panic!("{error}"));
                    for (slot, bytes) in buffers.iter().zip(&run.run.buffers) {
                        self.bytes_mut(*slot).copy_from_slice(bytes);
                    }
                }
                Command::Product(product) => self.product(product),
                Command::Zero(slot) => self.bytes_mut(*slot).fill(0),
                Command::Final(_) | Command::Sum(_) => {}
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn time(&mut self, program: &Arc<Program>) -> Result<Vec<f32>, DeviceError> {
        self.run(program)?;
        Ok(vec![1.0; program.commands.len()])
    }

    fn name(&self) -> String {
        "emulation".to_owned()
    }
}

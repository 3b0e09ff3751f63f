//! What a step's program promises.

use super::*;
use crate::config::{Recompute, Resolved};
use crate::gpu::program::{Command, Program};
use crate::ops::profile::Op;
use crate::roofline::{GpuMemory, Step, Work};

fn xl(recompute: Recompute, images: usize) -> Config {
    let mut config = Resolved::named("imagenet256-xl").unwrap().config;
    config.run.precision = Precision::Bf16;
    config.run.recompute = recompute;
    config.optim.global_batch_size = images;
    config.optim.micro_batch_size = 0;
    config
}

/// The work of a program: of its products, and of everything else.
fn works(program: &Program) -> [Work; 2] {
    let mut works = [Work::default(); 2];
    for (op, work) in program.commands.iter().filter_map(Command::work) {
        let kind = &mut works[usize::from(op != Op::MatMul)];
        *kind = *kind + work;
    }
    works
}

fn assert_within(share: f64, what: &str, found: f64, planned: f64) {
    let off = (found - planned).abs() / planned;
    assert!(
        off < share,
        "{what}: {found:.4e} in the program, {planned:.4e} on paper"
    );
}

#[test]
fn the_analysis_is_that_of_the_program() {
    for (name, images) in [("imagenet256-xl", 64), ("imagenet512-xl", 16)] {
        let mut config = xl(Recompute::None, images);
        config.model = Resolved::named(name).unwrap().config.model;
        let program = DeviceModel::new(&config, 1).unwrap().step(images, 1.0);
        let step = Step::new(&config.model, images);
        let [products, others] = works(&program);
        assert_within(
            0.01,
            "operations of products",
            products.flops as f64,
            step.matmul_flops,
        );
        let planned: Work = step.parts.iter().map(|part| part.work * part.times).sum();
        let memory = planned.memory_bytes() as f64;
        assert_within(0.03, "bytes to memory", others.memory_bytes() as f64, memory);
        assert_within(0.03, "operations", others.flops as f64, planned.flops as f64);
    }
}

#[test]
fn the_memory_is_what_the_plan_says() {
    for (recompute, images) in [(Recompute::None, 32), (Recompute::Block, 64)] {
        let config = xl(recompute, images);
        let model = DeviceModel::new(&config, 1).unwrap();
        let spaces: usize = model.spaces(images).iter().map(|(_, bytes)| bytes).sum();
        let found = (spaces + model.step(images, 1.0).arena) as f64;
        let plan = GpuMemory::new(&config.model, images, recompute);
        let planned = plan.parameters + plan.activations + plan.spectra + plan.workspace;
        assert_within(0.03, "memory", found, planned);
    }
}

#[test]
fn gradients_are_final_once_and_from_their_end() {
    let config = xl(Recompute::None, 4);
    let model = DeviceModel::new(&config, 1).unwrap();
    let program = model.step(4, 1.0);
    let mut rest = model.parameters();
    let mut summed = 0;
    for command in &program.commands {
        match command {
            Command::Final(slot) => {
                assert_eq!(slot.offset / 4 + slot.count(), rest);
                rest = slot.offset / 4;
            }
            Command::Sum(_) => {
                assert_eq!(rest, 0, "all of them before the sums are awaited");
                summed += 1;
            }
            Command::Product(product) if product.out.slot.space == Space::Grads => {
                let end = product.out.slot.offset + product.out.slot.bytes;
                assert!(end <= 4 * rest, "a gradient is written after it was final");
            }
            Command::Launch(launch) if launch.op != Op::Optimizer => {
                let written = launch.places().filter(|slot| slot.space == Space::Grads);
                for slot in written {
                    assert!(slot.offset + slot.bytes <= 4 * rest, "{}", launch.name);
                }
            }
            _ => {}
        }
    }
    assert_eq!((rest, summed), (0, 1));
}

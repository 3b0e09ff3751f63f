//! The tables of `docs/gpu-performance.md`.

use std::fmt::Write;

use super::step::conv_of;
use super::{A100, Chunked, Device, GpuMemory, H100, Step, Work, largest_batch, work};
use crate::config::Recompute;
use crate::cost::{Dit, TRAINING_PASSES};
use crate::model::ModelConfig;

/// Images of a GPU at each sequence length: what fits without running blocks again, where that is possible.
const SHAPES: [(usize, usize); 3] = [(32, 64), (64, 16), (128, 2)];
const DEVICES: [Device; 2] = [A100, H100];

/// DiT-XL/2 on one A100, as the README of fast-DiT prints it: 0.84 steps of 128 images a second, fp16, with blocks run
/// again and latents made before.
const FAST_DIT_IMAGES: f64 = 0.84 * 128.0;

fn xl(input_size: usize) -> ModelConfig {
    ModelConfig {
        input_size,
        ..ModelConfig::default()
    }
}

fn ms(seconds: f64) -> String {
    let ms = 1e3 * seconds;
    if ms < 10.0 {
        format!("{ms:.2}")
    } else {
        format!("{ms:.0}")
    }
}

fn gigabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e9)
}

/// All tables, as Markdown: what stands between the marks of the document.
pub fn tables() -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = kernels(&mut out)
        .and_then(|()| convolutions(&mut out))
        .and_then(|()| steps(&mut out))
        .and_then(|()| memory(&mut out))
        .and_then(|()| all_reduce(&mut out));
    out
}

fn kernels(out: &mut String) -> std::fmt::Result {
    for (input_size, batch) in SHAPES {
        let (model, step) = (xl(input_size), Step::new(&xl(input_size), batch));
        writeln!(
            out,
            "### Kernels of one block, L {}, {batch} images\n",
            model.length()
        )?;
        writeln!(
            out,
            "| | MB to memory | MB to cache | GFLOP | A100 ms at least | expected | bound | H100 ms at least | expected |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|---|--:|--:|")?;
        for part in &step.parts {
            let work = part.work;
            writeln!(
                out,
                "| {} | {:.0} | {:.0} | {:.2} | {} | {} | {} | {} | {} |",
                part.name,
                work.memory_bytes() as f64 / 1e6,
                work.bytes() as f64 / 1e6,
                work.flops as f64 / 1e9,
                ms(A100.floor(work)),
                ms(A100.expected(work)),
                A100.bound(work),
                ms(H100.floor(work)),
                ms(H100.expected(work)),
            )?;
        }
        let per_block = step.matmul_flops / model.depth as f64;
        writeln!(
            out,
            "| matrix products | | | {:.0} | {} | {} | tensor | {} | {} |\n",
            per_block / 1e9,
            ms(per_block / A100.tensor_flops),
            ms(per_block / A100.tensor_flops / A100.matmul_share),
            ms(per_block / H100.tensor_flops),
            ms(per_block / H100.tensor_flops / H100.matmul_share),
        )?;
    }
    Ok(())
}

/// Both forms of the convolution, with what is once a step: spectra and S4D kernels, or matrices, and the gradients of parameters.
fn convolutions(out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "### The convolution of one block by transforms, and by chunks, expected ms\n"
    )?;
    writeln!(
        out,
        "| | L | images | forward by transforms | by chunks | backward by transforms | by chunks | once a step by transforms | by chunks | all by chunks, of all by transforms |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for device in DEVICES {
        for (input_size, batch) in SHAPES {
            let model = xl(input_size);
            let conv = conv_of(&model, batch);
            let chunked = Chunked {
                length: conv.length,
                dim: conv.dim,
                batch,
                directions: conv.directions,
                parts: Chunked::shares(batch, conv.dim),
                element: conv.element,
            };
            let (channels, states) = (2 * conv.dim, model.state_size / 2);
            let kernels = work::ssm_kernels(channels, states, conv.length)
                + work::ssm_kernels_backward(channels, states, conv.length);
            // Launch by launch: what one is bound by is no time for another.
            let expected = |works: &[Work]| works.iter().map(|&work| device.expected(work)).sum::<f64>();
            let times = [
                [expected(&[conv.whole_forward()]), expected(&[chunked.forward()])],
                [
                    expected(&[conv.whole_backward()]),
                    expected(&[chunked.adjoint(), chunked.moments()]),
                ],
                [
                    expected(&[conv.whole_kernels(), kernels]),
                    expected(&[chunked.matrices(states, true), chunked.gradients(states)]),
                ],
            ];
            let all = |form: usize| -> f64 { times.iter().map(|pair| pair[form]).sum() };
            let [forward, backward, once] = times.map(|pair| pair.map(ms));
            writeln!(
                out,
                "| {} | {} | {batch} | {} | {} | {} | {} | {} | {} | {:.0} % |",
                device.name,
                model.length(),
                forward[0],
                forward[1],
                backward[0],
                backward[1],
                once[0],
                once[1],
                100.0 * all(1) / all(0),
            )?;
        }
    }
    writeln!(out)
}

fn steps(out: &mut String) -> std::fmt::Result {
    writeln!(out, "### A step of XL\n")?;
    writeln!(
        out,
        "| | L | images a GPU | ms at least | expected | of it products | MFU | images/s | on 8 GPUs | with blocks run again |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for device in DEVICES {
        for (input_size, batch) in SHAPES {
            let (model, step) = (xl(input_size), Step::new(&xl(input_size), batch));
            let seconds = step.expected(&device, false);
            let images = batch as f64 / seconds;
            writeln!(
                out,
                "| {} | {} | {batch} | {} | {} | {} | {:.0} % | {images:.1} | {:.0} | {:.1} |",
                device.name,
                model.length(),
                ms(step.floor(&device)),
                ms(seconds),
                ms(step.expected_of_matmul(&device)),
                100.0 * step.utilisation(&device, seconds),
                8.0 * batch as f64 / on_eight(&step, &device, seconds),
                batch as f64 / step.expected(&device, true),
            )?;
        }
    }
    writeln!(out, "\n### Beside DiT-XL/2\n")?;
    writeln!(
        out,
        "| | GFLOPs an image (papers' convention) | images/s of one A100 | TFLOP/s of the model | MFU |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|")?;
    let mut row = |name: &str, gflops: f64, images: f64| {
        let flops = 2e9 * TRAINING_PASSES * gflops * images;
        let (tera, share) = (flops / 1e12, 100.0 * flops / A100.tensor_flops);
        writeln!(
            out,
            "| {name} | {gflops:.1} | {images:.1} | {tera:.0} | {share:.0} % |"
        )
    };
    let (model, step) = (xl(32), Step::new(&xl(32), 64));
    row(
        "DiT-XL/2, fast-DiT, as published",
        Dit::XL_2.gflops_per_image(32),
        FAST_DIT_IMAGES,
    )?;
    row(
        "DiffuSSM-XL, expected",
        model.gflops_per_image(),
        step.batch as f64 / step.expected(&A100, false),
    )?;
    row(
        "the same, blocks run again",
        model.gflops_per_image(),
        step.batch as f64 / step.expected(&A100, true),
    )?;
    writeln!(out)
}

/// Seconds of a step on eight GPUs: the sum of gradients goes on beside the backward, but for its last bucket.
fn on_eight(step: &Step, device: &Device, seconds: f64) -> f64 {
    let reduce = step.all_reduce(device, 8);
    let last = reduce / 30.0;
    seconds + last + (reduce - step.expected_of_backward(device)).max(0.0)
}

fn memory(out: &mut String) -> std::fmt::Result {
    writeln!(out, "### Memory of XL, GB of 80\n")?;
    writeln!(
        out,
        "| L | blocks run again | largest batch | parameters | activations | spectra | workspace | total | an image |"
    )?;
    writeln!(out, "|--:|---|--:|--:|--:|--:|--:|--:|--:|")?;
    for (input_size, _) in SHAPES {
        for recompute in [Recompute::None, Recompute::Block] {
            let model = xl(input_size);
            let batch = largest_batch(&model, &A100, recompute);
            let plan = |batch| GpuMemory::new(&model, batch, recompute);
            let (of_batch, one, two) = (plan(batch.max(1)), plan(1), plan(2));
            writeln!(
                out,
                "| {} | {} | {batch} | {} | {} | {} | {} | {} | {} |",
                model.length(),
                if recompute == Recompute::Block {
                    "yes"
                } else {
                    "no"
                },
                gigabytes(of_batch.parameters),
                gigabytes(of_batch.activations),
                gigabytes(of_batch.spectra),
                gigabytes(of_batch.workspace),
                gigabytes(of_batch.total()),
                gigabytes(two.activations - one.activations),
            )?;
        }
    }
    writeln!(out)
}

fn all_reduce(out: &mut String) -> std::fmt::Result {
    writeln!(out, "### Summing gradients on 8 GPUs\n")?;
    writeln!(
        out,
        "| | L | images a GPU | GB of gradients | all-reduce ms | backward ms | hidden |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|---|")?;
    for device in DEVICES {
        for (input_size, batch) in SHAPES {
            let (model, step) = (xl(input_size), Step::new(&xl(input_size), batch));
            let (reduce, backward) = (step.all_reduce(&device, 8), step.expected_of_backward(&device));
            writeln!(
                out,
                "| {} | {} | {batch} | {} | {} | {} | {} |",
                device.name,
                model.length(),
                gigabytes(4.0 * step.parameters as f64),
                ms(reduce),
                ms(backward),
                if reduce < backward { "yes" } else { "no" },
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xl_step_is_expected_to_reach_45_per_cent_of_an_a100() {
        let step = Step::new(&xl(32), 64);
        let share = step.utilisation(&A100, step.expected(&A100, false));
        assert!((0.45..A100.matmul_share).contains(&share), "{share}");
        assert!(step.floor(&A100) < step.expected(&A100, false));
    }

    #[test]
    fn the_batches_of_the_tables_fit() {
        for (input_size, batch) in SHAPES {
            let largest = largest_batch(&xl(input_size), &A100, Recompute::None);
            assert!(largest >= batch, "L {}: {largest}", xl(input_size).length());
            assert!(largest_batch(&xl(input_size), &A100, Recompute::Block) > 2 * largest);
        }
    }

    #[test]
    fn the_document_has_these_tables() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gpu-performance.md");
        let document = fs_err::read_to_string(path).unwrap();
        let between = document
            .split("<!-- begin: gpu_performance -->\n")
            .nth(1)
            .unwrap();
        let between = between.split("<!-- end -->").next().unwrap();
        assert_eq!(
            between,
            tables(),
            "run `cargo run --release -p trainer --example gpu_performance`"
        );
    }
}

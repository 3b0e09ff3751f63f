//! Whole models of the golden files: output and gradients of every parameter, computed in f64 and rounded once.

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use trainer::config::Config;
use trainer::gpu::model::DeviceModel;
use trainer::gpu::program::{Slot, Space};
use trainer::model::{ModelConfig, ParamLayout, is_b};

use super::values::largest;
use crate::device::open;

const FILES: [(&str, &[u8]); 6] = [
    (
        "film_odd",
        include_bytes!("../../../tests/golden/film_odd.safetensors"),
    ),
    (
        "gate_sum_m1",
        include_bytes!("../../../tests/golden/gate_sum_m1.safetensors"),
    ),
    (
        "model_p1m2",
        include_bytes!("../../../tests/golden/model_p1m2.safetensors"),
    ),
    (
        "nofinal_legs",
        include_bytes!("../../../tests/golden/nofinal_legs.safetensors"),
    ),
    (
        "none_erf_m4",
        include_bytes!("../../../tests/golden/none_erf_m4.safetensors"),
    ),
    (
        "p2_m3_uncond",
        include_bytes!("../../../tests/golden/p2_m3_uncond.safetensors"),
    ),
];

/// Largest distance from the answers, as a share of the largest of them: of outputs, and of gradients.
const LIMITS: [f64; 2] = [2e-5, 2e-4];

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(view.data())
}

fn ints(view: &TensorView<'_>) -> Vec<i32> {
    let wide: Vec<i64> = bytemuck::pod_collect_to_vec(view.data());
    wide.into_iter().map(|value| value as i32).collect()
}

fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let distance = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
    got.iter().zip(want).map(distance).fold(0.0, f64::max) / largest(want)
}

fn check(name: &str, bytes: &[u8]) {
    let Some(mut device) = open() else {
        return;
    };
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let file = SafeTensors::deserialize(bytes).unwrap();
    let metadata = metadata.metadata().as_ref().unwrap();
    assert_eq!(metadata["kind"], "model", "{name}");
    let model: ModelConfig = serde_json::from_str(&metadata["config"]).unwrap();
    let config = Config {
        model: model.clone(),
        ..Config::default()
    };
    let layout = ParamLayout::model(&model);
    let mut weights = vec![0f32; layout.total()];
    for info in layout.tensors() {
        let values = floats(&file.tensor(&format!("w.{}", info.name)).unwrap());
        weights[info.range()].copy_from_slice(&values);
    }
    let (x, up) = (
        floats(&file.tensor("in.x").unwrap()),
        floats(&file.tensor("up.o").unwrap()),
    );
    let t = ints(&file.tensor("in.t").unwrap());
    let y = file.tensor("in.y").map_or(vec![0; t.len()], |view| ints(&view));

    let plan = DeviceModel::new(&config, 1).unwrap();
    for (space, bytes) in plan.spaces(t.len()) {
        device.reserve(space, bytes).unwrap();
    }
    for (slot, bytes) in plan.constants() {
        device.write(*slot, bytes).unwrap();
    }
    let params = Slot::new(Space::Params, 0, weights.len(), 4);
    device.write(params, bytemuck::cast_slice(&weights)).unwrap();
    let mut end = 0;
    let mut place = |count: usize| {
        let slot = Slot::new(Space::Inputs, end, count, 4);
        end += slot.bytes.next_multiple_of(256);
        slot
    };
    let (from, d_output) = ([place(x.len()), place(t.len()), place(t.len())], place(up.len()));
    let output = place(up.len());
    device.reserve(Space::Inputs, end).unwrap();
    for (slot, bytes) in [
        (from[0], bytemuck::cast_slice(&x)),
        (from[1], bytemuck::cast_slice(&t)),
        (from[2], bytemuck::cast_slice(&y)),
        (d_output, bytemuck::cast_slice(&up)),
    ] {
        device.write(slot, bytes).unwrap();
    }
    for program in [plan.spectra(), plan.gradients(from, output, d_output)] {
        device.reserve(Space::Arena, program.arena).unwrap();
        device.run(&program.into()).unwrap();
    }
    let (mut found, mut grads) = (vec![0f32; up.len()], vec![0f32; weights.len()]);
    device.read(output, bytemuck::cast_slice_mut(&mut found)).unwrap();
    let all = Slot::new(Space::Grads, 0, grads.len(), 4);
    device.read(all, bytemuck::cast_slice_mut(&mut grads)).unwrap();

    let of_output = error(&found, &floats(&file.tensor("out.o").unwrap()));
    let mut of_grads = 0f64;
    for info in layout.tensors() {
        if is_b(&info.name) && !model.train_b {
            continue;
        }
        let want = floats(&file.tensor(&format!("grad.{}", info.name)).unwrap());
        of_grads = of_grads.max(error(&grads[info.range()], &want));
    }
    eprintln!("golden {name}: output {of_output:.1e}, gradients {of_grads:.1e}");
    assert!(
        of_output < LIMITS[0] && of_grads < LIMITS[1],
        "{name}: output {of_output:.1e}, gradients {of_grads:.1e}"
    );
}

pub(crate) fn golden_models_are_reproduced() {
    for (name, bytes) in FILES {
        check(name, bytes);
    }
}

//! What a GPU's time goes into, beside what it must take at least.

use serde::Serialize;

use crate::config::Config;
use crate::cost::TRAINING_PASSES;
use crate::fit::Profiled;
use crate::roofline::Device;

/// A training step on a GPU.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DeviceReport {
    /// The GPU.
    device: String,
    /// Median.
    ms_per_step: f64,
    images_per_second: f64,
    /// Share of the tensor cores' peak that the model's products are; none where the GPU's peak is not known.
    mfu: Option<f64>,
    /// By kind of operation, one process alone with waits between the commands.
    kinds: Vec<Kind>,
}

/// Commands of one kind.
#[derive(Clone, Debug, Serialize)]
struct Kind {
    name: &'static str,
    commands: usize,
    ms: f64,
    /// What it takes at least by the roofline: bytes to memory and to the cache, operations.
    floor_ms: Option<f64>,
}

/// The report of steps with a median of `milliseconds`, of which one was profiled.
pub(super) fn report(
    config: &Config,
    ranks: usize,
    device: &str,
    milliseconds: f64,
    kinds: &[Profiled],
) -> DeviceReport {
    let known = Device::called(device);
    let images = config.optim.global_batch_size as f64;
    // Two floating-point operations a multiply-add.
    let flops = 2e9 * TRAINING_PASSES * images * config.model.gflops_per_image();
    let mfu = known.map(|known| {
        let peak = known.peak(config.run.precision) * ranks as f64;
        flops / (milliseconds / 1e3) / peak
    });
    let kinds = kinds.iter().filter(|kind| kind.count > 0).map(|kind| Kind {
        name: kind.op.name(),
        commands: kind.count,
        ms: 1e3 * kind.seconds,
        floor_ms: known.map(|known| 1e3 * known.floor_of_kind(kind.op, kind.work, config.run.precision)),
    });
    DeviceReport {
        device: device.to_owned(),
        ms_per_step: milliseconds,
        images_per_second: 1e3 * images / milliseconds,
        mfu,
        kinds: kinds.collect(),
    }
}

impl DeviceReport {
    /// The same for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mfu = self.mfu.map_or_else(
            || "MFU not known".to_owned(),
            |mfu| format!("MFU {:.1} %", 100.0 * mfu),
        );
        let mut lines = vec![
            format!(
                "{}: {:.1} ms a step, {:.1} images/s, {mfu}",
                self.device, self.ms_per_step, self.images_per_second
            ),
            "  kind                     launches        ms    share  at least  of that".to_owned(),
        ];
        let total: f64 = self.kinds.iter().map(|kind| kind.ms).sum();
        for kind in &self.kinds {
            let floor = kind.floor_ms.map_or_else(String::new, |floor| {
                format!("{floor:>10.2} {:>7.0} %", 100.0 * floor / kind.ms)
            });
            lines.push(format!(
                "  {:<24} {:>8} {:>9.2} {:>6.1} %{floor}",
                kind.name,
                kind.commands,
                kind.ms,
                100.0 * kind.ms / total
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Precision, Resolved};
    use crate::ops::profile::Op;
    use crate::roofline::Work;

    #[test]
    fn time_is_told_beside_what_it_must_be() {
        let mut config = Resolved::named("imagenet256-xl").unwrap().config;
        config.run.precision = Precision::Bf16;
        config.optim.global_batch_size = 64;
        let work = Work {
            flops: 312_000_000_000,
            ..Work::default()
        };
        let kinds = [Profiled {
            op: Op::MatMul,
            count: 7,
            work,
            seconds: 2e-3,
        }];
        let report = report(&config, 1, "NVIDIA A100-SXM4-80GB", 800.0, &kinds);
        assert!((report.images_per_second - 80.0).abs() < 1e-9);
        let text = report.lines().join("\n");
        // 312 GFLOP at 312 TFLOP/s: one of two milliseconds.
        assert!(
            text.contains("1.00      50 %") && text.contains("MFU 45"),
            "{text}"
        );
        let other = super::report(&config, 1, "another", 800.0, &kinds);
        assert!(other.mfu.is_none() && other.lines()[0].contains("not known"));
    }
}

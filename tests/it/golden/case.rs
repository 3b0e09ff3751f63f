//! One golden file: reading, comparing, writing.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Map, Value};
use trainer::model::{ModelConfig, ParamLayout};

const SCHEMA: &str = "diffussm-golden/1";

/// Computed tensors by name, flat.
pub(super) type Computed = BTreeMap<String, Vec<f64>>;

/// What running a case gave.
pub(super) enum Outcome {
    /// Every answer.
    Computed(Computed),
    /// `field=value` of a choice that the program does not offer.
    Unsupported(String),
}

/// A tensor of the file; f64 holds every f32 and every integer in use exactly.
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// An answer that the file asks for.
struct Answer {
    dtype: Dtype,
    shape: Vec<usize>,
}

/// A golden file in memory.
pub(super) struct Case {
    pub(super) kind: String,
    pub(super) level: String,
    pub(super) args: Value,
    config: Map<String, Value>,
    outputs: BTreeMap<String, Answer>,
    /// Limits of an f32 program by prefix of the tensor's name.
    limits: BTreeMap<String, f64>,
    /// Limit of the answers that are F64.
    wide_limit: Option<f64>,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs_err::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let metadata = header.metadata().as_ref().context("no metadata")?;
        let text = |key: &str| metadata.get(key).with_context(|| format!("no metadata `{key}`"));
        let json = |key: &str| -> Result<Value> {
            metadata.get(key).map_or(Ok(Value::Object(Map::new())), |text| {
                serde_json::from_str(text).with_context(|| format!("metadata `{key}`"))
            })
        };
        let schema = text("schema")?;
        ensure!(schema == SCHEMA, "unknown schema `{schema}`");

        let mut tensors = HashMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
            let values = decode(&view).with_context(|| format!("tensor `{name}`"))?;
            tensors.insert(
                name,
                Tensor {
                    shape: view.shape().to_vec(),
                    values,
                },
            );
        }
        let mut outputs = BTreeMap::new();
        for (name, entry) in json("outputs")?
            .as_object()
            .context("metadata `outputs` is no object")?
        {
            let shape: Vec<usize> = serde_json::from_value(entry[1].clone())?;
            let dtype = match entry[0].as_str() {
                Some("F32") => Dtype::F32,
                Some("F64") => Dtype::F64,
                Some("I64") => Dtype::I64,
                other => bail!("output `{name}` has dtype {other:?}"),
            };
            outputs.insert(name.clone(), Answer { dtype, shape });
        }
        let tolerance = json("tolerance")?;
        let limits = serde_json::from_value(tolerance["f32"].clone()).context("metadata `tolerance.f32`")?;
        Ok(Self {
            kind: text("kind")?.clone(),
            level: text("level")?.clone(),
            args: json("args")?,
            config: json("config")?
                .as_object()
                .context("metadata `config` is no object")?
                .clone(),
            outputs,
            limits,
            wide_limit: tolerance["F64 tensors"].as_f64(),
            tensors,
        })
    }

    /// The architecture; `Err(field=value)` inside for a choice that the program does not offer.
    pub(super) fn model_config(&self) -> Result<Result<ModelConfig, String>> {
        for (field, value) in &self.config {
            let alone = Map::from_iter([(field.clone(), value.clone())]);
            if serde_json::from_value::<ModelConfig>(Value::Object(alone)).is_err() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return Ok(Err(format!("{field}={value}")));
            }
        }
        Ok(Ok(serde_json::from_value(Value::Object(self.config.clone()))?))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .with_context(|| format!("no tensor `{name}`"))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = &self.tensor(name)?.shape;
        shape
            .as_slice()
            .try_into()
            .with_context(|| format!("`{name}` has shape {shape:?}"))
    }

    pub(super) fn f64(&self, name: &str) -> Result<&[f64]> {
        Ok(&self.tensor(name)?.values)
    }

    pub(super) fn f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.f64(name)?.iter().map(|&v| v as f32).collect())
    }

    pub(super) fn indices(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.f64(name)?.iter().map(|&v| v as u32).collect())
    }

    /// The weights `w.*` as the flat buffer of `layout`; every one of them must have its place there.
    pub(super) fn weights(&self, layout: &ParamLayout) -> Result<Vec<f32>> {
        let mut flat = vec![0f32; layout.total()];
        for info in layout.tensors() {
            let name = format!("w.{}", info.name);
            let tensor = self.tensor(&name)?;
            ensure!(
                tensor.shape == info.shape,
                "`{name}` is {:?}, not {:?}",
                tensor.shape,
                info.shape
            );
            flat[info.range()].copy_from_slice(&self.f32(&name)?);
        }
        for name in self.tensors.keys().filter_map(|name| name.strip_prefix("w.")) {
            ensure!(layout.get(name).is_some(), "the program has no weight `{name}`");
        }
        Ok(flat)
    }

    /// Adds the tensors of a flat buffer as `prefix` + name, those that the file asks for.
    pub(super) fn put_flat(&self, computed: &mut Computed, prefix: &str, layout: &ParamLayout, flat: &[f32]) {
        for info in layout.tensors() {
            let name = format!("{prefix}{}", info.name);
            if self.outputs.contains_key(&name) {
                computed.insert(name, widen(&flat[info.range()]));
            }
        }
    }

    /// Every answer asked for is there, with as many elements as it must have (`mid.*` may be missing).
    pub(super) fn check_shapes(&self, computed: &Computed) -> Result<()> {
        for (name, answer) in &self.outputs {
            match computed.get(name) {
                Some(values) => {
                    let want: usize = answer.shape.iter().product();
                    ensure!(
                        values.len() == want,
                        "`{name}` has {} elements, not {want}",
                        values.len()
                    );
                }
                None => ensure!(name.starts_with("mid."), "`{name}` was not computed"),
            }
        }
        Ok(())
    }

    /// Writes the answers in their shapes and types.
    pub(super) fn write(&self, computed: &Computed, path: &Path) -> Result<()> {
        let mut encoded = Vec::new();
        for (name, answer) in &self.outputs {
            if let Some(values) = computed.get(name) {
                let bytes: Vec<u8> = match answer.dtype {
                    Dtype::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
                    Dtype::F64 => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
                    _ => values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect(),
                };
                encoded.push((name, answer, bytes));
            }
        }
        let mut views = Vec::new();
        for (name, answer, bytes) in &encoded {
            views.push((
                name.as_str(),
                TensorView::new(answer.dtype, answer.shape.clone(), bytes)?,
            ));
        }
        fs_err::write(path, serialize(views, None)?)?;
        Ok(())
    }

    /// Compares with the answers in the file: whether all are within their limits, and the line that says so.
    pub(super) fn verdict(&self, computed: &Computed) -> (bool, String) {
        let mut worst = BTreeMap::from([("out", 0f64), ("grad", 0f64)]);
        let (mut above, mut judged) = (Vec::new(), 0);
        for (name, answer) in &self.outputs {
            let (Some(got), Some(want)) = (computed.get(name), self.tensors.get(name)) else {
                continue;
            };
            if name.starts_with("mid.") {
                continue;
            }
            judged += 1;
            let (error, limit) = if answer.dtype == Dtype::I64 {
                (if *got == want.values { 0.0 } else { f64::INFINITY }, 0.0)
            } else {
                (
                    self.error(name, got, &want.values),
                    self.limit(name, answer.dtype),
                )
            };
            let group = if name.starts_with("grad.") { "grad" } else { "out" };
            if let Some(worst) = worst.get_mut(group) {
                // Not `max`, which would drop a NaN.
                if error.is_nan() || error > *worst {
                    *worst = error;
                }
            }
            if error.is_nan() || error > limit {
                above.push(format!("{name} {error:.1e} > {limit:.0e}"));
            }
        }
        let ok = above.is_empty();
        let mut line = if judged == 0 {
            "ok computed, no answers to compare with".to_owned()
        } else {
            let verdict = if ok { "ok" } else { "FAIL" };
            format!(
                "{verdict} worst out {:.1e} worst grad {:.1e}",
                worst["out"], worst["grad"]
            )
        };
        if !ok {
            line.push_str(&format!(" ({})", above.join(", ")));
        }
        (ok, line)
    }

    /// Largest difference over the largest answer; of the weights after AdamW, over the distance that they can go.
    fn error(&self, name: &str, got: &[f64], want: &[f64]) -> f64 {
        let largest = want.iter().fold(0f64, |max, v| max.max(v.abs()));
        let mut scale = if largest > 0.0 { largest } else { 1.0 };
        if self.kind == "adamw"
            && name.starts_with("out.w.")
            && let (Some(steps), Some(lr)) = (self.args["steps"].as_f64(), self.args["lr"].as_f64())
        {
            scale = steps * lr;
        }
        let mut worst = 0f64;
        for (got, want) in got.iter().zip(want) {
            let error = (got - want).abs();
            if error.is_nan() {
                return f64::NAN;
            }
            worst = worst.max(error);
        }
        worst / scale
    }

    fn limit(&self, name: &str, dtype: Dtype) -> f64 {
        if dtype == Dtype::F64
            && let Some(limit) = self.wide_limit
        {
            return limit;
        }
        let fits = self
            .limits
            .iter()
            .filter(|(prefix, _)| name.starts_with(prefix.as_str()));
        fits.max_by_key(|(prefix, _)| prefix.len())
            .map_or(0.0, |(_, &limit)| limit)
    }
}

/// f32 values as the f64 that the harness computes with.
pub(super) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

fn decode(view: &TensorView<'_>) -> Result<Vec<f64>> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::F32 => data
            .as_chunks()
            .0
            .iter()
            .map(|&b| f64::from(f32::from_le_bytes(b)))
            .collect(),
        Dtype::F64 => data
            .as_chunks()
            .0
            .iter()
            .map(|&b| f64::from_le_bytes(b))
            .collect(),
        Dtype::I64 => data
            .as_chunks()
            .0
            .iter()
            .map(|&b| i64::from_le_bytes(b) as f64)
            .collect(),
        other => bail!("dtype {other:?}"),
    })
}

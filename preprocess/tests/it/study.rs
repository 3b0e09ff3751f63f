//! `shards study`: every choice is measured, errors and sizes are in the order that the dtypes promise.

use crate::{preprocess, shards, text};

fn demo(dir: &std::path::Path, dtype: &str) -> std::path::PathBuf {
    let out = dir.join(dtype);
    let mut args = vec![
        "encode",
        "--dataset",
        "demo",
        "--size",
        "64",
        "--vae",
        "tiny",
        "--dtype",
        dtype,
    ];
    args.extend(["--limit", "6", "--out", text(&out)]);
    let (code, _, err) = preprocess(&args);
    assert_eq!(code, 0, "{err}");
    out
}

#[test]
fn a_study_measures_every_choice_on_exact_latents_only() {
    let dir = tempfile::tempdir().unwrap();
    let out = demo(dir.path(), "f32");
    let (code, stdout, err) = shards(&["study", text(&out), "--seconds", "0", "--json"]);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let choices = report["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4 * 3 * 5);
    assert!(report["posterior_std_median"].as_f64().unwrap() > 0.0);
    let of = |dtype: &str, level: Option<i64>, what: &str| {
        let is_wanted = |c: &&serde_json::Value| {
            c["dtype"] == dtype && c["frame_rows"] == 1 && c["level"].as_i64() == level
        };
        choices.iter().find(is_wanted).unwrap()[what].as_f64().unwrap()
    };
    assert_eq!(of("f32", Some(1), "rms_error"), 0.0);
    assert!(of("f16", Some(1), "rms_error") < of("bf16", Some(1), "rms_error"));
    assert!(of("f32", None, "bytes_per_row") > of("f32", Some(1), "bytes_per_row"));
    assert!(of("f16", None, "bytes_per_row") > of("int8", None, "bytes_per_row"));
    assert!(of("f16", Some(1), "decode_gb_per_second") > 0.0);

    let rounded = demo(dir.path(), "bf16");
    let (code, _, err) = shards(&["study", text(&rounded)]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("hint: encode with --dtype f32"), "{err}");
}

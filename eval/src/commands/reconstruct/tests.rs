//! The command as users type it, on few images and a network of random weights.

use crate::cli;
use preprocess::console::Printer;

fn run(program: fn(Vec<std::ffi::OsString>, &mut Printer) -> u8, args: &[&str]) -> (u8, String, String) {
    let (mut printer, out, err) = Printer::captured();
    let code = program(args.iter().map(Into::into).collect(), &mut printer);
    (code, out.text(), err.text())
}

fn eval(args: &[&str]) -> (u8, String, String) {
    run(cli::run, args)
}

fn encode(args: &[&str]) {
    let (code, _, err) = run(preprocess::cli::run, &[&["preprocess", "encode"], args].concat());
    assert_eq!(code, 0, "{err}");
}

#[test]
fn every_store_of_the_latents_has_a_row_and_costs_next_to_nothing_beside_the_autoencoder() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (data, out) = (path("data"), path("out"));
    encode(&[
        "--dataset",
        "demo",
        "--size",
        "64",
        "--vae",
        "tiny",
        "--limit",
        "12",
        "--out",
        &data,
    ]);
    let args = [
        "eval",
        "fid",
        "--reconstruct",
        &data,
        "--inception",
        "random:0",
        "--json",
        "--out",
        &out,
    ];
    let (code, stdout, err) = eval(&args);
    assert_eq!(code, 0, "{err}");
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&found["samples"], &found["vae"], &found["comparable"]),
        (&12.into(), &"tiny".into(), &false.into())
    );
    assert!(
        err.contains("| bf16 |") && err.contains("not comparable"),
        "{err}"
    );
    let rows = found["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["latents"].as_str().unwrap()).collect();
    assert_eq!(names, ["f32", "f16", "bf16", "int8", "as stored (bf16)"]);
    let number = |row: usize, key: &str| rows[row][key].as_f64().unwrap();
    // The autoencoder changes the images, f32 does not change its latents, and each narrower dtype changes them more.
    assert!(number(0, "rfid") > 0.0 && number(0, "psnr") < 60.0, "{found}");
    assert_eq!(number(0, "latent_rms_error"), 0.0);
    for dtype in 1..4 {
        let key = "latent_rms_error";
        assert!(number(dtype, key) > number(dtype - 1, key), "{found}");
        let added = (number(dtype, "rfid") - number(0, "rfid")).abs();
        assert!(added < 0.05 * number(0, "rfid"), "{found}");
    }
    // What lies in the dataset is what the row of its dtype was computed from.
    for key in ["rfid", "psnr", "latent_rms_error"] {
        assert!(
            (number(4, key) / number(2, key) - 1.0).abs() < 1e-5,
            "{key}: {found}"
        );
    }
    let saved = fs_err::read_to_string(folder.path().join("out/reconstruct.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&saved).unwrap(), found);
    assert!(folder.path().join("out/reconstruct.md").is_file());
}

#[test]
fn originals_that_are_gone_are_told_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (photos, data) = (folder.path().join("photos"), path("data"));
    fs_err::create_dir(&photos).unwrap();
    for id in 0..3 {
        let image = preprocess::dataset::demo::draw(0, id, 16).0;
        preprocess::console::grid::write_png(&image, &photos.join(format!("{id}.png"))).unwrap();
    }
    encode(&[
        "--dataset",
        "folder",
        "--source",
        &path("photos"),
        "--size",
        "16",
        "--vae",
        "none",
        "--out",
        &data,
    ]);
    fs_err::rename(&photos, path("elsewhere")).unwrap();
    let (code, _, err) = eval(&["eval", "fid", "--reconstruct", &data, "--inception", "random:0"]);
    assert!(
        code == 2 && err.contains("originals") && err.contains("photos"),
        "{err}"
    );
    let (code, _, err) = eval(&["eval", "fid", "--reconstruct", &data, "--images", &data]);
    assert!(code == 2 && err.contains("cannot be used with"), "{err}");
}

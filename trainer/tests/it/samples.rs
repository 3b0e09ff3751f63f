//! `trainer sample` into an archive: killed, it goes on and comes to the same bytes.

use std::path::Path;
use std::time::Duration;

use super::resume::start;
use super::{dataset, run_of, trainer};

#[test]
fn a_killed_command_goes_on_to_the_same_archive() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (dataset(dir.path()), dir.path().join("run").display().to_string());
    assert_eq!(trainer(&run_of(&data, &run, &["run.num_steps=2"])).0, 0);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (whole, killed) = (path("whole.npz"), path("killed.npz"));
    let sample = |out: &str, batch: &str| -> Vec<String> {
        [
            "sample",
            "--checkpoint",
            &run,
            "--count",
            "300",
            "--steps",
            "20",
            "--batch",
            batch,
            "--out",
            out,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let words = |words: &[String]| trainer(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(words(&sample(&whole, "64")).0, 0);
    let args = sample(&killed, "7");
    let parts = Path::new(&killed).with_extension("npz.parts");
    for part in ["part-00000.npz", "part-00002.npz"] {
        let mut child = start(&args.iter().map(String::as_str).collect::<Vec<_>>());
        while !parts.join(part).exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(
        !Path::new(&killed).exists(),
        "the kills came too late to show anything"
    );
    let (code, _, err) = words(&args);
    assert!(code == 0 && err.contains("continuing after "), "{err}");
    assert!(std::fs::read(&killed).unwrap() == std::fs::read(&whole).unwrap());
    assert!(!parts.exists());

    // The same place, but other images.
    std::fs::create_dir_all(&parts).unwrap();
    std::fs::write(parts.join("samples.json"), "{\"step\": 7}").unwrap();
    let (code, _, err) = words(&args);
    assert!(code == 2 && err.contains("holds other samples"), "{err}");
}

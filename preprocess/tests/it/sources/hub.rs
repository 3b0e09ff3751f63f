//! ImageNet from a hub: a small server of this test's own that speaks the hub's protocol.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{IMAGES, contents, make, photograph};
use crate::text;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Hub {
    files: Vec<(String, Vec<u8>)>,
    /// Whether the visitor may have them.
    accepted: bool,
    /// Files that were sent.
    sent: AtomicUsize,
    /// After so many files the server breaks off.
    breaks_after: usize,
}

/// Serves `hub` until the test's process ends; answers the address.
fn serve(hub: Arc<Hub>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let hub = Arc::clone(&hub);
            std::thread::spawn(move || answer(&hub, stream));
        }
    });
    address
}

fn answer(hub: &Hub, mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).ok()? == 0 {
            return None;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
        }
        let mut words = request.split_whitespace();
        let (method, path) = (words.next()?, words.next()?.split('?').next()?.to_owned());
        let file = hub.files.iter().find(|(name, _)| path.ends_with(name.as_str()));
        let (status, headers, body) = if !hub.accepted {
            (
                "403 Forbidden",
                "X-Error-Code: GatedRepo\r\n".to_owned(),
                b"access is restricted".to_vec(),
            )
        } else if path.starts_with("/api/datasets/ILSVRC/imagenet-1k/tree/") {
            let entries = hub.files.iter().map(|(name, bytes)| {
                serde_json::json!({ "type": "file", "oid": "1", "size": bytes.len(), "path": name })
            });
            let body = serde_json::to_vec(&entries.collect::<Vec<_>>()).ok()?;
            ("200 OK", "Content-Type: application/json\r\n".to_owned(), body)
        } else if let Some((name, bytes)) = file {
            let headers = format!(
                "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
                name.replace('/', "-")
            );
            if method == "GET" && hub.sent.fetch_add(1, Ordering::SeqCst) >= hub.breaks_after {
                return None;
            }
            ("200 OK", headers, bytes.clone())
        } else {
            ("404 Not Found", String::new(), Vec::new())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        if method != "HEAD" {
            stream.write_all(&body).ok()?;
        }
    }
}

fn encode(address: &str, home: &Path, out: &Path, extra: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_preprocess"))
        .args([
            "encode",
            "--dataset",
            "imagenet",
            "--vae",
            "none",
            "--size",
            "32",
            "--out",
            text(out),
        ])
        .args(extra)
        .env("HF_ENDPOINT", address)
        .env("HF_HOME", home)
        .env("HF_TOKEN", "hf_test")
        .env_remove("IMAGENET_DIR")
        .env_remove("HF_HUB_OFFLINE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let row = |(class, file, name): &(&str, &str, &str)| {
        let label = ["n01440764", "n01443537", "n15075141"]
            .iter()
            .position(|other| other == class)
            .unwrap();
        (
            Some(file.replace(".JPEG", &format!("_{class}.JPEG"))),
            label as i64,
            photograph(name),
        )
    };
    let rows: Vec<make::Row> = IMAGES.iter().map(row).collect();
    rows.chunks(3)
        .enumerate()
        .map(|(i, rows)| {
            let name = format!("data/train-{i:05}-of-00003.parquet");
            let path = dir.join(&name);
            make::parquet(&path, rows, 2);
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn imagenet_is_fetched_file_by_file_and_goes_on_after_a_break() {
    let dir = tempfile::tempdir().unwrap();
    let hub = |breaks_after| {
        let (accepted, sent) = (true, AtomicUsize::new(0));
        Arc::new(Hub {
            files: files(&dir.path().join("made")),
            accepted,
            sent,
            breaks_after,
        })
    };
    let (home, out) = (dir.path().join("home"), dir.path().join("out"));
    let broken = encode(&serve(hub(2)), &home, &out, &["--source", "hub"]);
    let err = String::from_utf8_lossy(&broken.stderr);
    assert!(
        !broken.status.success() && err.contains("run the same command again"),
        "{err}"
    );

    // No source and no folder in the environment: the hub.
    let whole = hub(usize::MAX);
    let done = encode(&serve(Arc::clone(&whole)), &home, &out, &[]);
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{err}");
    assert_eq!(whole.sent.load(Ordering::SeqCst), 1, "two were there");
    let found = contents(&out);
    assert_eq!(found.len(), 9);
    assert_eq!(found["n15075141/n15075141_4.JPEG"].1, 2);
    let manifest = std::fs::read_to_string(out.join("dataset.json")).unwrap();
    assert!(
        manifest.contains(&format!("hub:ILSVRC/imagenet-1k@{COMMIT}")),
        "{manifest}"
    );

    let few = encode(
        &serve(hub(usize::MAX)),
        &dir.path().join("home-2"),
        &dir.path().join("few"),
        &["--source", "hub", "--limit", "4"],
    );
    assert!(few.status.success());
    assert!(String::from_utf8_lossy(&few.stderr).contains("(2 of 3)"));
    assert_eq!(contents(&dir.path().join("few")).len(), 4);
}

#[test]
fn terms_that_were_not_accepted_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Arc::new(Hub {
        files: files(&dir.path().join("made")),
        accepted: false,
        sent: AtomicUsize::new(0),
        breaks_after: 0,
    });
    let address = serve(hub);
    for extra in [&["--source", "hub"][..], &[]] {
        let refused = encode(&address, &dir.path().join("home"), &dir.path().join("out"), extra);
        let err = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2));
        for words in [
            "terms must be accepted",
            "huggingface.co/datasets/ILSVRC/imagenet-1k",
            "HF_TOKEN",
        ] {
            assert!(err.contains(words), "{err}");
        }
    }
}

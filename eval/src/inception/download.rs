//! The published weights: fetched once, checked, and kept beside the Hugging Face hub's cache.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::weights::{PUBLISHED_SHA256, hex, sha256_of};
use crate::error::{Error, Result};

/// The file that pytorch-fid publishes.
pub const URL: &str = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth";
/// Its length in bytes.
pub const SIZE: u64 = 95_628_359;
const FILE_NAME: &str = "pt_inception-2015-12-05-6726825d.pth";

/// Path of the published file, downloading it the first time.
///
/// # Errors
/// If it cannot be downloaded, or is not the file of the pinned size and hash.
pub fn published_file() -> Result<PathBuf> {
    let folder = cache_folder();
    let path = folder.join(FILE_NAME);
    if path.is_file() && sha256_of(&path)? == PUBLISHED_SHA256 {
        return Ok(path);
    }
    fs_err::create_dir_all(&folder).map_err(Error::io(&folder))?;
    fetch(URL, &path, SIZE, PUBLISHED_SHA256)?;
    Ok(path)
}

/// `$HF_HOME/diffussm` or `~/.cache/huggingface/diffussm`.
fn cache_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    std::env::var_os("HF_HOME")
        .map_or_else(|| home().join(".cache").join("huggingface"), PathBuf::from)
        .join("diffussm")
}

/// Fetches `url` to `path`, if it has `size` bytes and the hash `expected`.
fn fetch(url: &str, path: &Path, size: u64, expected: &str) -> Result<()> {
    let failed = |reason: String| Error::Download {
        url: url.to_owned(),
        reason,
    };
    let client = reqwest::blocking::Client::builder()
        .connect_timeout(Duration::from_secs(15))
        .timeout(Duration::from_secs(1800))
        .build()
        .map_err(|error| failed(chain(&error)))?;
    let response = client
        .get(url)
        .send()
        .and_then(reqwest::blocking::Response::error_for_status);
    let bytes = response
        .and_then(reqwest::blocking::Response::bytes)
        .map_err(|error| failed(chain(&error)))?;
    if bytes.len() as u64 != size {
        return Err(failed(format!(
            "{} bytes came, {size} were expected",
            bytes.len()
        )));
    }
    let sha256 = hex(&Sha256::digest(&bytes));
    if sha256 != expected {
        return Err(failed(format!(
            "its SHA-256 is {sha256}, {expected} was expected"
        )));
    }
    let part = path.with_extension("part");
    let mut file = fs_err::File::create(&part).map_err(Error::io(&part))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io(&part))?;
    fs_err::rename(&part, path).map_err(Error::io(path))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_network_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let message = fetch("http://127.0.0.1:1/weights.pth", &folder.path().join("w"), 5, "")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("--inception FILE") && message.contains("127.0.0.1"),
            "{message}"
        );
        assert!(!folder.path().join("w").exists());
    }

    /// A server that answers every request with `hello`.
    fn server() -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
            }
        });
        format!("http://{address}/weights.pth")
    }

    #[test]
    fn a_file_of_another_size_or_hash_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (url, path) = (server(), folder.path().join("w"));
        let hello = hex(&Sha256::digest(b"hello"));
        for (size, hash, told) in [
            (6, hello.as_str(), "5 bytes came, 6 were expected"),
            (5, PUBLISHED_SHA256, "its SHA-256 is 2cf24dba"),
        ] {
            let message = fetch(&url, &path, size, hash).unwrap_err().to_string();
            assert!(
                message.contains(told) && message.contains("--inception FILE"),
                "{message}"
            );
            assert!(!path.exists());
        }
        fetch(&url, &path, 5, &hello).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"hello");
    }
}

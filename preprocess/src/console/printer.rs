//! The only place that writes to the terminal: results on stdout, everything else on stderr.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Where `--json [FILE]` sends the data: absent, stdout, or a file.
pub type JsonTarget = Option<Option<PathBuf>>;

/// Owns both output writers, so that tests see what users see.
pub struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    quiet: bool,
    json_on_stdout: bool,
    terminal: bool,
}

/// What a [`Printer::captured`] has written.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// The text so far.
    pub fn text(&self) -> String {
        self.0
            .lock()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut all) = self.0.lock() {
            all.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printer {
    /// Writes to the process's stdout and stderr.
    pub fn stdio() -> Self {
        Self {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            quiet: false,
            json_on_stdout: false,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Writes into memory; the answers are stdout's and stderr's text.
    pub fn captured() -> (Self, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        let printer = Self {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            quiet: false,
            json_on_stdout: false,
            terminal: false,
        };
        (printer, out, err)
    }

    /// Writes nothing but errors.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// Keeps stdout for data: with `--json` on stdout, [`Self::say`] writes to stderr.
    pub fn set_json(&mut self, target: &JsonTarget) {
        self.json_on_stdout = matches!(target, Some(None));
    }

    /// Whether a progress bar may be drawn.
    pub fn draws_bars(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// Whether notes are suppressed.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line of the answer: on stdout, or on stderr while stdout carries JSON.
    pub fn say(&mut self, line: impl Display) {
        if self.json_on_stdout {
            self.note(line);
        } else if !self.quiet {
            let _ = writeln!(self.out, "{line}");
        }
    }

    /// A remark on the work, on stderr.
    pub fn note(&mut self, line: impl Display) {
        if !self.quiet {
            let _ = writeln!(self.err, "{line}");
        }
    }

    /// An error or a warning, on stderr, also when quiet.
    pub fn error(&mut self, line: impl Display) {
        let _ = writeln!(self.err, "{line}");
    }

    /// Writes `value` where `--json` asks for it; nothing when it was not given.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn json(&mut self, target: &JsonTarget, value: &serde_json::Value) -> std::io::Result<()> {
        match target {
            None => Ok(()),
            Some(None) => writeln!(self.out, "{value:#}"),
            Some(Some(path)) => fs_err::write(path, format!("{value:#}\n")),
        }
    }

    /// Flushes both writers.
    pub fn flush(&mut self) {
        let _ = self.out.flush();
        let _ = self.err.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_leaves_nothing_else_on_stdout() {
        let (mut printer, out, err) = Printer::captured();
        printer.set_json(&Some(None));
        printer.say("hello");
        printer.json(&Some(None), &serde_json::json!({"a": 1})).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&out.text()).unwrap()["a"],
            1
        );
        assert_eq!(err.text(), "hello\n");
    }
}

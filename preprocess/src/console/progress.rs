//! Progress with rate and time to go: a bar on a terminal, a plain line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Printer;

/// Counts work that is done. The rate leaves out what an earlier run had finished.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    unit: String,
    total: Option<u64>,
    first: u64,
    position: u64,
    started: Instant,
    told: Instant,
    every: Duration,
}

impl Progress {
    /// Starts at `first` of `total` units (`images`, `steps`); `what` names the work.
    pub fn new(printer: &Printer, what: &str, unit: &str, first: u64, total: Option<u64>) -> Self {
        let bar = printer.draws_bars().then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = if total.is_some() {
                "{prefix} {wide_bar:.cyan} {percent:>3}% {pos}/{len} {msg}"
            } else {
                "{prefix} {spinner} {pos} {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_string());
            bar.set_position(first);
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            what: what.to_string(),
            unit: unit.to_string(),
            total,
            first,
            position: first,
            started: now,
            told: now,
            every: Duration::from_secs(10),
        }
    }

    /// Sets the position; `extra` is shown behind the rate (a loss, a number of rejects).
    pub fn set(&mut self, printer: &mut Printer, position: u64, extra: &str) {
        self.position = position;
        let now = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(self.message(extra));
        } else if now - self.told >= self.every {
            self.told = now;
            printer.note(format_args!("{} {}", self.headline(), self.message(extra)));
        }
    }

    /// Units a second since the start of this run.
    pub fn rate(&self) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64();
        if seconds > 0.0 {
            (self.position - self.first) as f64 / seconds
        } else {
            0.0
        }
    }

    /// Time since the start of this run.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes lines while the bar is hidden.
    pub fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn headline(&self) -> String {
        match self.total {
            Some(total) if total > 0 => {
                format!(
                    "{} {}/{total} {}%",
                    self.what,
                    self.position,
                    100 * self.position / total
                )
            }
            _ => format!("{} {}", self.what, self.position),
        }
    }

    fn message(&self, extra: &str) -> String {
        let rate = self.rate();
        let mut text = format!("{rate:.1} {}/s", self.unit);
        if let Some(total) = self.total
            && rate > 0.0
        {
            let left = total.saturating_sub(self.position) as f64 / rate;
            text.push_str(&format!(" ETA {}", duration(left)));
        }
        if !extra.is_empty() {
            text.push(' ');
            text.push_str(extra);
        }
        text
    }
}

/// Writes seconds as `2d 3h`, `3h 05m`, `4m 10s` or `12s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.clamp(0.0, 1e9).round() as u64;
    let (d, h, m, s) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match whole {
        0..60 => format!("{s}s"),
        60..3600 => format!("{m}m {s:02}s"),
        3600..86_400 => format!("{h}h {m:02}m"),
        _ => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_use_two_units() {
        assert_eq!(duration(12.2), "12s");
        assert_eq!(duration(250.0), "4m 10s");
        assert_eq!(duration(11_100.0), "3h 05m");
        assert_eq!(duration(183_600.0), "2d 3h");
    }
}

//! Processor time of what a benchmark repeats.

use std::time::Instant;

/// The processor time of this thread so far, in seconds; wall-clock time where the system does not tell.
fn processor_seconds() -> f64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    match schedstat
        .split(' ')
        .next()
        .and_then(|time| time.parse::<f64>().ok())
    {
        Some(nanoseconds) => 1e-9 * nanoseconds,
        None => START.elapsed().as_secs_f64(),
    }
}

/// The mean over a second of processor time: other work on the machine does not count.
pub(crate) fn milliseconds(mut work: impl FnMut()) -> f64 {
    work();
    let begin = processor_seconds();
    let (mut runs, mut spent) = (0, 0.0);
    while spent < 1.0 {
        work();
        runs += 1;
        spent = processor_seconds() - begin;
    }
    1e3 * spent / f64::from(runs)
}

//! Which timesteps of a process a shorter one keeps (Nichol and Dhariwal 2021, section 4; ADM's `respace.py`).

use super::Error;

/// The kept timesteps, ascending.
///
/// A list of counts (`10,15,20`) cuts the process into as many sections of equal size, the first ones longer by one
/// where it does not divide, and keeps that many steps of each, its first and last among them. `ddimN` keeps every
/// s-th step from 0, with the smallest s that leaves N. An empty text keeps all.
///
/// # Errors
/// [`Error::Respacing`] when a section is shorter than its count, or no stride gives N.
pub fn respaced_timesteps(num_timesteps: usize, spec: &str) -> Result<Vec<usize>, Error> {
    let fail = |why: String| Error::Respacing {
        spec: spec.to_owned(),
        num_timesteps,
        why,
    };
    let parse = |text: &str| -> Result<usize, Error> {
        match text.trim().parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(fail(format!(
                "`{text}` is not a count; write 250, 10,15,20 or ddim50"
            ))),
        }
    };
    if spec.is_empty() {
        return Ok((0..num_timesteps).collect());
    }
    if let Some(count) = spec.strip_prefix("ddim") {
        let count = parse(count)?;
        return match (1..num_timesteps.max(2)).find(|&s| num_timesteps.div_ceil(s) == count) {
            Some(stride) => Ok((0..num_timesteps).step_by(stride).collect()),
            None => Err(fail(format!("no integer stride leaves {count} steps"))),
        };
    }
    let counts = spec.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    let (size, longer) = (num_timesteps / counts.len(), num_timesteps % counts.len());
    let mut kept = Vec::new();
    let mut start = 0;
    for (section, &count) in counts.iter().enumerate() {
        let size = size + usize::from(section < longer);
        if count > size {
            return Err(fail(format!(
                "section {section} has {size} steps, fewer than {count}"
            )));
        }
        let stride = if count > 1 {
            (size - 1) as f64 / (count - 1) as f64
        } else {
            1.0
        };
        // Repeated addition, as the original does it: the rounding of the sum decides some steps.
        let mut position = 0f64;
        for _ in 0..count {
            kept.push(start + position.round_ties_even() as usize);
            position += stride;
        }
        start += size;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_steps_that_adm_keeps() -> Result<(), Error> {
        let sum = |spec: &str| respaced_timesteps(1000, spec).map(|kept| kept.iter().sum::<usize>());
        assert_eq!(sum("250")?, 124_875);
        assert_eq!(sum("50")?, 24_975);
        assert_eq!(sum("10,10,10,10,10")?, 24_975);
        assert_eq!(respaced_timesteps(300, "10,15,20")?.iter().sum::<usize>(), 7727);
        let kept = [
            0, 42, 83, 125, 166, 208, 250, 291, 333, 375, 416, 458, 500, 541, 583, 624, 666, 708, 749, 791,
            832, 874, 916, 957, 999,
        ];
        assert_eq!(respaced_timesteps(1000, "25")?, kept);
        assert_eq!(respaced_timesteps(1000, "5")?, [0, 250, 500, 749, 999]);
        assert_eq!(respaced_timesteps(1000, "ddim30")?.last(), Some(&986));
        assert_eq!(respaced_timesteps(1000, "ddim250")?[1], 4);
        assert_eq!(respaced_timesteps(1000, "")?.len(), 1000);
        Ok(())
    }

    #[test]
    fn says_why_a_specification_does_not_fit() {
        for spec in ["1001", "ddim37", "ddim41", "0", "ten", "600,1"] {
            assert!(respaced_timesteps(1000, spec).is_err(), "{spec}");
        }
    }
}

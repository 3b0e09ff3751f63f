//! Numbers as people write them: `50k`, `1.2M`, `8_192`.

/// Reads a count: digits with optional `_`, a decimal point and a suffix `k`, `M` or `G` (powers of 1000).
///
/// # Errors
/// A message that names the text, for clap and for configuration errors.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let plain: String = text.trim().chars().filter(|c| *c != '_').collect();
    let wrong =
        || format!("`{text}` is not a count: write digits, perhaps with k, M or G, such as 8192 or 50k");
    let (digits, factor) = match plain.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&plain[..at], 1e3),
        Some((at, 'm' | 'M')) => (&plain[..at], 1e6),
        Some((at, 'g' | 'G')) => (&plain[..at], 1e9),
        _ => (plain.as_str(), 1.0),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    if factor == 1.0 {
        return digits.parse().map_err(|_| wrong());
    }
    let value = digits.parse::<f64>().map_err(|_| wrong())? * factor;
    if value > 9e15 || (value - value.round()).abs() > 1e-6 * value.max(1.0) {
        return Err(wrong());
    }
    Ok(value.round() as u64)
}

/// Writes a count with thousands separated by commas.
pub fn with_commas(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// Writes a number of bytes in the largest fitting unit (powers of 1000).
pub fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_as_people_write_them() {
        assert_eq!(parse_count("50k"), Ok(50_000));
        assert_eq!(parse_count("1.2M"), Ok(1_200_000));
        assert_eq!(parse_count("8_192"), Ok(8192));
        assert_eq!(parse_count("0"), Ok(0));
        for bad in ["", "k", "-1", "1.5", "1.2345k", "ten", "99999999999999999999"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_written_in_groups_of_three() {
        assert_eq!(with_commas(1_281_167), "1,281,167");
        assert_eq!(with_commas(999), "999");
        assert_eq!(bytes(334_643_276), "334.6 MB");
    }
}

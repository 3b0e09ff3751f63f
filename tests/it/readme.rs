//! The commands that the README shows are commands of the programs.

use std::path::Path;

/// The lines of all shell blocks of the README, continuation lines joined, comments taken off.
fn shell_lines() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(path).unwrap().replace("\\\n", " ");
    let mut lines = Vec::new();
    let mut is_shell = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_shell = line == "```sh";
        } else if is_shell {
            let line = line.split(" #").next().unwrap_or_default().trim();
            lines.push(line.to_owned());
        }
    }
    lines
}

#[test]
fn every_command_of_the_readme_is_accepted() {
    let programs = [
        ("preprocess", preprocess::cli::command()),
        ("trainer", trainer::cli::command()),
        ("eval", eval::cli::command()),
    ];
    let mut checked = 0;
    for line in shell_lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let words = match words.strip_prefix(&["cargo"]) {
            Some(rest) => rest.to_vec(),
            None => words,
        };
        // Programs that were built with other features.
        let first = words
            .first()
            .map(|word| word.trim_start_matches("target/release/"));
        let words: Vec<&str> = first.into_iter().chain(words.iter().skip(1).copied()).collect();
        // The alias `cargo quickstart` is `eval quickstart`.
        let words = match words.strip_prefix(&["quickstart"]) {
            Some(rest) => [&["eval", "quickstart"], rest].concat(),
            None => words,
        };
        let Some((_, program)) = programs.iter().find(|(name, _)| words.first() == Some(name)) else {
            continue;
        };
        if let Err(error) = program.clone().try_get_matches_from(&words) {
            panic!("`{line}`: {error}");
        }
        checked += 1;
    }
    assert!(checked >= 6, "only {checked} commands found");
}

#[test]
fn continuous_integration_runs_the_readme_s_test_command() {
    let ci = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run")).unwrap();
    let tests: Vec<String> = shell_lines()
        .into_iter()
        .filter(|line| line.starts_with("cargo test"))
        .collect();
    assert!(
        !tests.is_empty() && ci.lines().any(|line| line == tests[0]),
        "{tests:?}"
    );
}

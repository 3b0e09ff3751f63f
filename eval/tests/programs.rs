//! The two programs as they are started: `fid ARGS` is `eval fid ARGS`.

use std::process::{Command, Output};

fn run(program: &str, args: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(args).output()
}

#[test]
fn fid_is_the_subcommand_of_eval() {
    let (eval, fid) = (env!("CARGO_BIN_EXE_eval"), env!("CARGO_BIN_EXE_fid"));
    let (long, short) = (
        run(eval, &["fid", "--help"]).unwrap(),
        run(fid, &["--help"]).unwrap(),
    );
    assert_eq!(long, short);
    assert!(String::from_utf8_lossy(&short.stdout).contains("--reference"));
    let args = ["--images", "/nowhere", "--reference", "/nowhere"];
    assert_eq!(run(fid, &args).unwrap().status.code(), Some(2));
}

//! Exit codes and the one way in which an error is told.

use super::Printer;

/// The work is done.
pub const DONE: u8 = 0;
/// The program ran, but the answer is bad: damaged data, too many rejects, a diverged loss.
pub const BAD: u8 = 1;
/// Wrong usage, configuration or environment.
pub const USAGE: u8 = 2;
/// Interrupted after saving.
pub const INTERRUPTED: u8 = 130;

/// Writes an error and its causes to stderr; answers [`USAGE`].
pub fn fail(printer: &mut Printer, error: &anyhow::Error) -> u8 {
    let mut told = String::new();
    for (i, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        if i == 0 {
            told.clone_from(&text);
            printer.error(format_args!("error: {text}"));
        } else if !told.contains(&text) {
            printer.error(format_args!("  because: {text}"));
            told = text;
        }
    }
    USAGE
}

/// Reads the command line; help, versions and mistakes are written through the printer and give an exit code.
///
/// # Errors
/// The exit code with which the program should end.
pub fn parse<C: clap::Parser>(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    printer: &mut Printer,
) -> Result<C, u8> {
    C::try_parse_from(args).map_err(|error| {
        let text = error.render().to_string();
        if error.use_stderr() {
            printer.error(text.trim_end());
            USAGE
        } else {
            printer.say(text.trim_end());
            DONE
        }
    })
}

//! What a user sees while a command works, and after.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::{Code, Failure, one_line};
use crate::interrupt;

/// How much is said on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Errors.
    Quiet,
    /// Progress, and what was written.
    Normal,
    /// What is used, too.
    Verbose,
}

/// Progress on stderr: a bar on a terminal, lines for what stays.
pub(crate) struct Report {
    verbosity: Verbosity,
    bar: ProgressBar,
}

impl Report {
    /// A report that says as much as `verbosity` asks.
    pub(crate) fn new(verbosity: Verbosity) -> Self {
        // A target that is no terminal draws nothing.
        let target = match verbosity {
            Verbosity::Quiet => ProgressDrawTarget::hidden(),
            _ => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        interrupt::clears(&bar);
        Report { verbosity, bar }
    }

    /// Shows that something of unknown length is going on.
    pub(crate) fn stage(&self, what: &str) {
        self.bar.set_style(style("{spinner} {msg} {elapsed}"));
        self.bar.set_message(what.to_owned());
        // Draws, so that what it draws has to be set by now.
        self.bar.reset();
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// Shows the first of `total` steps; [`Report::step`] goes on.
    pub(crate) fn steps(&self, what: &str, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_style(style("{msg} {wide_bar} {pos}/{len}, {elapsed}, {eta} left"));
        self.bar.set_message(what.to_owned());
        self.bar.reset();
        self.bar.enable_steady_tick(Duration::from_millis(500));
    }

    /// One step is done.
    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar off the terminal.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// A line that stays.
    pub(crate) fn note(&self, line: &str) {
        self.line(Verbosity::Normal, line);
    }

    /// A line that stays, for those who asked for more.
    pub(crate) fn detail(&self, line: &str) {
        self.line(Verbosity::Verbose, line);
    }

    fn line(&self, least: Verbosity, line: &str) {
        if self.verbosity >= least {
            self.bar.suspend(|| print_line(line));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("templates are constants").progress_chars("=> ")
}

/// Prints why a command ended early.
pub(crate) fn print_failure(failure: &Failure) {
    print_line(&format!("error: {}", failure.message));
    if let Some(hint) = &failure.hint {
        print_line(&format!("hint: {hint}"));
    }
}

fn print_line(line: &str) {
    // Nobody can be told that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{}", one_line(line));
}

/// Prints a command's result on stdout: `styled` on a terminal, `plain` elsewhere.
///
/// A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(styled: &str, plain: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { styled } else { plain };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Output, format!("standard output: cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a command's result as JSON on stdout.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    let text = format!("{value:#}\n");
    print(&text, &text)
}

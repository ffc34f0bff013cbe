//! A panic is a bug: it ends the program with one line and its own exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::failure::{Code, Failure};

/// The last panic: what it said and where.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics from printing; with `RUST_BACKTRACE` they print as usual as well.
///
/// The engine catches panics of wgpu's and turns them into errors, so a hook must not speak for itself.
pub(crate) fn install() {
    let usual = std::panic::take_hook();
    let backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |info| {
        if backtrace {
            usual(info);
        }
        let payload = info.payload();
        let text =
            payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let said = text.unwrap_or("no message");
        let place = info.location().map_or_else(String::new, |location| format!(" ({location})"));
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{said}{place}"));
    }));
}

/// What `work` returns, or [`Code::Bug`] if it panics.
pub(crate) fn caught(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let failure = Failure::new(Code::Bug, format!("this is a bug in photogram: {last}"));
        Err(failure.with_hint("please report it together with the command that was typed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_one_line_with_its_place() {
        install();
        let failure = caught(|| panic!("two\nlines")).unwrap_err();
        let _ = std::panic::take_hook();
        assert_eq!(failure.code, Code::Bug);
        assert!(
            failure.message.starts_with("this is a bug in photogram: two lines ("),
            "{}",
            failure.message
        );
        assert!(failure.message.contains("panic.rs:"), "{}", failure.message);
    }
}

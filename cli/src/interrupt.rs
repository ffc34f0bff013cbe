//! Ctrl-C: the program ends at once, and leaves no file that it was writing.

use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use crate::failure::Code;

/// What is drawn on the terminal at the moment.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Ends the program on Ctrl-C, SIGTERM and SIGHUP, whatever it waits for: neither a GPU's answer nor a disk's can be cancelled.
pub(crate) fn install() {
    if ctrlc::try_set_handler(stop).is_err() {
        install_for_termination();
    }
}

/// ctrlc takes all of the signals or none, and none where one of them is ignored: SIGINT of what a script runs in the
/// background, SIGHUP under nohup. Those stay ignored, and SIGTERM, which is hardly ever ignored, is taken alone; of SIGINT and
/// SIGHUP the other ends the program as it ends any.
#[cfg(unix)]
fn install_for_termination() {
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]) {
        std::thread::spawn(move || signals.forever().take(1).for_each(|_| stop()));
    }
}

#[cfg(not(unix))]
fn install_for_termination() {}

fn stop() {
    let _abandoned = loaders::abandon_writes();
    if let Some(bar) = DRAWN.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
    end(Code::Interrupted as i32);
}

/// Ends the process without what usually runs at its end: a driver's handlers would meet its own threads at work, or wait for
/// them.
pub(crate) fn end(code: i32) -> ! {
    #[cfg(unix)]
    signal_hook::low_level::exit(code);
    #[cfg(not(unix))]
    std::process::exit(code)
}

/// Has an interruption clear `bar` from the terminal.
pub(crate) fn clears(bar: &ProgressBar) {
    *DRAWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
}

//! `photogram`: words and exit codes around the engine.
//!
//! [`args`] are the words as they were typed, [`request`] what they ask of the engine; each command is one file in
//! [`commands`]. Nothing here computes with tensors.

mod adapter;
mod args;
mod builtin;
mod commands;
mod dump;
mod failure;
mod headless;
mod interrupt;
mod metadata;
mod noise;
mod output;
mod panic;
mod parameters;
mod ranges;
mod report;
mod request;
mod sampler_names;
mod stored;
mod tables;
mod trace;

use std::process::ExitCode;

use args::Command;
use failure::{Code, Failure};

fn main() -> ExitCode {
    headless::leave_out_device_selection();
    panic::install();
    interrupt::install();
    let result = panic::caught(|| pollster::block_on(run()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::print_failure(&failure);
            if failure.code == Code::Gpu {
                // Its driver may wait for a device that never answers.
                interrupt::end(Code::Gpu as i32);
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

async fn run() -> Result<(), Failure> {
    let Some(command) = args::parse()? else { return Ok(()) };
    match command {
        Command::Generate(args) => commands::generate::run(&args).await,
        Command::Devices(args) => commands::devices::run(&args).await,
        Command::Inspect(args) => commands::inspect::run(&args).await,
        Command::Profile(args) => commands::profile::run(&args).await,
        Command::Tune(args) => commands::tune::run(&args).await,
        Command::Validate(args) => commands::validate::run(&args).await,
        Command::Plan(args) => commands::plan::run(&args).await,
        Command::Reproduce(args) => commands::reproduce::run(&args).await,
        Command::Compare(args) => commands::compare::run(&args).await,
    }
}

//! The program as a user starts it: one process for each row.
//!
//! Rows that draw use a tiny random model, or the built-in one for a step or two; without an adapter they print a skip, with
//! `REQUIRE_GPU=1` they fail.

mod caches;
mod drawing;
mod models;
mod process;
mod profile;
mod refusals;
mod support;
mod validate;
#[cfg(unix)]
mod writes;

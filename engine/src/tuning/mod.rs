//! Which variant of each operation is the fastest on this adapter: measured once, checked, kept in a file.
//!
//! [`Choices`] are what plans are made with. [`infer_tasks`] says what there is to choose, [`Tuner`] chooses, and
//! [`Identity`] tells for which adapter, driver and shaders that holds. Called by `photogram tune`.

mod choices;
mod identity;
mod measure;
mod task;

pub use choices::{Choices, key};
pub use identity::{Identity, read_choices};
pub use measure::{Measured, RUNS, Tuned, Tuner};
pub use task::{Task, infer_tasks, tasks_of};

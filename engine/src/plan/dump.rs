//! A plan as text: what `--verbose` prints and snapshots hold.

use std::fmt;

use super::{Place, Plan};

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Input(i) => write!(f, "in{i}"),
            Place::Output(i) => write!(f, "out{i}"),
            Place::Param(i) => write!(f, "w{i}"),
            Place::Slot(i) => write!(f, "s{i}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, ty)) in self.inputs.iter().enumerate() {
            writeln!(f, "in{i} {name} {ty}")?;
        }
        for (i, bytes) in self.slots.iter().enumerate() {
            writeln!(f, "s{i} {bytes} bytes")?;
        }
        for step in &self.steps {
            write!(f, "{:?} {} <- {}(", step.rate, step.output, step.variant.name)?;
            for (i, place) in step.inputs.iter().enumerate() {
                write!(f, "{}{place}", if i > 0 { ", " } else { "" })?;
            }
            writeln!(f, ") {}", step.name)?;
        }
        for (i, (name, ty)) in self.outputs.iter().enumerate() {
            writeln!(f, "out{i} {name} {ty}")?;
        }
        Ok(())
    }
}

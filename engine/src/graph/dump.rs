//! A graph as text, one value to a line.

use std::fmt;

use super::{Graph, Source};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, value) in self.values() {
            write!(f, "%{} {} {} = ", id.0, value.name, value.ty)?;
            match &value.source {
                Source::Input { rate } => writeln!(f, "input({rate:?})")?,
                Source::Param(param) => writeln!(f, "param({:?})", param.packing)?,
                Source::Node { op, inputs } => {
                    write!(f, "{}(", op.name())?;
                    for (i, input) in inputs.iter().enumerate() {
                        write!(f, "{}%{}", if i > 0 { ", " } else { "" }, input.0)?;
                    }
                    for (name, attribute) in op.attributes() {
                        write!(f, ", {name}={attribute}")?;
                    }
                    writeln!(f, ")")?;
                }
            }
        }
        let outputs: Vec<String> = self.outputs().iter().map(|id| format!("%{}", id.0)).collect();
        writeln!(f, "outputs {}", outputs.join(" "))
    }
}

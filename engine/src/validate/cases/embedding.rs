//! Rows of a table: gathered on the host, as a text encoder's embeddings are.

use kernels::DType;
use kernels::check::{Class, compare_values};
use loaders::Encoding;

use super::arguments::{Arguments, Skip};
use super::{Cases, RecordedCase, Variants, judged_as, without_ones};
use crate::error::Error;
use crate::weights::Weights;

/// What stands in place of a variant's name.
const ON_THE_HOST: &str = "host";

impl Cases {
    /// Case `index`, compared with what was recorded; or why it is not computed.
    pub(super) async fn embedding(&self, index: usize, case: &RecordedCase) -> Result<Variants, Error> {
        let width = match described(case) {
            Ok(width) => width,
            Err(reason) => return Ok(Err(reason)),
        };
        let name = |input: &str| {
            // A list of one is one.
            let given = &self.rows[index]["inputs"][input];
            given.as_str().or(given[0].as_str()).unwrap_or_default().to_owned()
        };
        let entry = self.tensors.require(&name("input"))?;
        let bytes = self.tensors.read(entry).await?;
        let indices: Option<Vec<usize>> = match entry.encoding {
            Encoding::I64 => {
                bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b).try_into().ok()).collect()
            }
            Encoding::I32 => {
                bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).try_into().ok()).collect()
            }
            other => return Ok(Err(format!("indices of {other}"))),
        };
        let n_rows = case.inputs["weight"][0].shape[0];
        let Some(indices) = indices.filter(|indices| indices.iter().all(|index| *index < n_rows)) else {
            return Ok(Err(format!("an index that the table of {n_rows} rows does not have")));
        };
        let shape = [case.inputs["input"][0].shape.as_slice(), &[width]].concat();
        if without_ones(&shape) != without_ones(&case.output.shape) {
            return Ok(Err(format!("{shape:?} comes out, {:?} was recorded", case.output.shape)));
        }
        let table = Weights::new(self.tensors.clone(), false);
        let found = table.rows(&name("weight"), &indices, width).await?;
        let dtype = judged_as(case.output.encoding, DType::F32);
        Ok(Ok(vec![(ON_THE_HOST, compare_values(&case.output.values, &found, Class::Move, dtype))]))
    }
}

/// The width of the table's rows, or why they are not gathered.
fn described(case: &RecordedCase) -> Result<usize, Skip> {
    let mut arguments = Arguments::of(case);
    arguments.tensor("input")?;
    // What gradients are for changes no row.
    arguments.optional_number("padding_idx")?;
    arguments.flag("scale_grad_by_freq")?;
    arguments.flag("sparse")?;
    arguments.optional_number("norm_type")?;
    if arguments.optional_number("max_norm")?.is_some() {
        return Err("'max_norm' is none of ours".to_owned());
    }
    let table = arguments.tensor("weight")?;
    let &[_, width] = table.shape.as_slice() else {
        return Err(format!("a table of shape {:?}", table.shape));
    };
    if !matches!(table.encoding, Encoding::F32 | Encoding::F16 | Encoding::Bf16) {
        return Err(format!("tables of {} are not read", table.encoding));
    }
    if case.output.values.is_empty() {
        return Err(format!("an output of {} {:?}", case.output.encoding, case.output.shape));
    }
    arguments.all_used()?;
    Ok(width)
}

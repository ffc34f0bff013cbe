//! Values that are moved.

use kernels::HostTensor;
use kernels::ops::Concat;

use super::arguments::Arguments;
use super::{Expressed, Skip, plain, same};

pub(super) fn concat(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let dim = arguments.number("dim", Some(0.0))?;
    let tensors = arguments.tensors("tensors")?;
    let rank = tensors.first().map_or(0, |tensor| tensor.shape.len()) as f64;
    let axis = if dim < 0.0 { dim + rank } else { dim };
    if !(0.0..rank).contains(&axis) || axis.fract() != 0.0 {
        return Err(format!("dimension {dim} of {rank}"));
    }
    let operands: Result<Vec<HostTensor>, Skip> = tensors.iter().map(same).collect();
    plain(Concat { axis: axis as usize }, operands?)
}

//! Values that are moved.

use kernels::TensorType;
use kernels::ops::{Permute, Reshape, Slice};

use super::{Arguments, Expressed, ResultShape, Sketch, Skip, ValueId, as_it_is, same};

pub(super) fn concat(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let axis = arguments.dimension("dim", Some(0.0), "tensors")?;
    let tensors = arguments.tensors("tensors")?;
    let mut sketch = Sketch::default();
    let mut ids = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        ids.push(sketch.operand(same(tensor)?));
    }
    let y = sketch.joined(axis, ids)?;
    sketch.ending(y, as_it_is, ResultShape::Own)
}

/// The most pieces of one dimension that are joined.
const MAX_PIECES: usize = 64;

/// Consecutive indices of a dimension, or as many of what it is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece {
    Taken { start: usize, length: usize },
    Filled { length: usize },
}

/// Slices joined to each other, and to what fills the rest.
pub(super) fn pad(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let mode = arguments.word("mode", "constant")?;
    let value = arguments.number("value", Some(0.0))?;
    let pad = arguments.integers("pad")?;
    let input = arguments.tensor("input")?;
    let rank = input.shape.len();
    if pad.len() % 2 != 0 || pad.len() / 2 > rank {
        return Err(format!("'pad' = {pad:?} on {:?}", input.shape));
    }
    let mut sketch = Sketch::default();
    let mut x = sketch.operand(same(input)?);
    // From the innermost dimension outwards.
    for (axis, ends) in (0..rank).rev().zip(pad.chunks(2)) {
        let indices = padded(&mode, input.shape[axis] as i64, [ends[0], ends[1]])?;
        x = gathered(&mut sketch, x, axis, &pieces(&indices), value)?;
    }
    sketch.ending(x, as_it_is, ResultShape::Own)
}

/// Where each index of a padded dimension comes from; `None` is filled.
fn padded(mode: &str, extent: i64, [before, after]: [i64; 2]) -> Result<Vec<Option<usize>>, Skip> {
    let longest = before.max(after);
    let source = |i: i64| match mode {
        "constant" => (0..extent).contains(&i).then_some(i),
        "replicate" => Some(i.clamp(0, extent - 1)),
        "circular" => Some(i.rem_euclid(extent)),
        _ => Some(if i < 0 {
            -i
        } else if i < extent {
            i
        } else {
            2 * (extent - 1) - i
        }),
    };
    match mode {
        "constant" | "replicate" => {}
        "circular" if longest <= extent && before.min(after) >= 0 => {}
        "reflect" if longest < extent => {}
        "circular" | "reflect" => {
            return Err(format!("{before} and {after} beside {extent} for mode '{mode}'"));
        }
        other => return Err(format!("mode '{other}' is none of ours")),
    }
    if extent + before + after <= 0 {
        return Err(format!("nothing is left of {extent} with {before} and {after} beside it"));
    }
    Ok((-before..extent + after).map(|i| source(i).map(|i| i as usize)).collect())
}

fn pieces(indices: &[Option<usize>]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for index in indices {
        match (pieces.last_mut(), index) {
            (Some(Piece::Filled { length }), None) => *length += 1,
            (Some(Piece::Taken { start, length }), Some(i)) if *start + *length == *i => *length += 1,
            (_, None) => pieces.push(Piece::Filled { length: 1 }),
            (_, Some(i)) => pieces.push(Piece::Taken { start: *i, length: 1 }),
        }
    }
    pieces
}

/// `pieces` of `x` along `axis`, one after the other.
fn gathered(
    sketch: &mut Sketch,
    x: ValueId,
    axis: usize,
    pieces: &[Piece],
    value: f64,
) -> Result<ValueId, Skip> {
    let ty = sketch.graph.ty(x).clone();
    if *pieces == [Piece::Taken { start: 0, length: ty.shape[axis] }] {
        return Ok(x);
    }
    if pieces.len() > MAX_PIECES {
        return Err(format!("{} pieces, of which {MAX_PIECES} are joined at most", pieces.len()));
    }
    let mut ids = Vec::with_capacity(pieces.len());
    for piece in pieces {
        ids.push(match *piece {
            Piece::Taken { start, length } => sketch.apply(Slice { axis, start, length }, &[x])?,
            Piece::Filled { length } => {
                let mut shape = ty.shape.to_vec();
                shape[axis] = length;
                sketch.filled(TensorType::new(ty.dtype, shape), value)?
            }
        });
    }
    sketch.joined(axis, ids)
}

/// Two changes of order, for operations have four dimensions at most: `[B, C, i, j, h, w]` becomes `[B, C, h, i, w, j]`.
pub(super) fn pixel_shuffle(arguments: &mut Arguments<'_>) -> Result<Expressed, Skip> {
    let factor = arguments.count("upscale_factor", None)?;
    let input = arguments.tensor("input")?;
    let &[ref before @ .., channels, height, width] = input.shape.as_slice() else {
        return Err(format!("an image of shape {:?}", input.shape));
    };
    let square = factor.checked_mul(factor).filter(|square| *square > 0 && channels % *square == 0);
    let square = square.ok_or_else(|| format!("{channels} channels with 'upscale_factor' = {factor}"))?;
    let images = before.iter().product::<usize>() * channels / square;
    let mut sketch = Sketch::default();
    let x = sketch.operand(same(input)?);
    let reshape = |shape: Vec<usize>| Reshape { shape: shape.into() };
    let x = sketch.apply(reshape(vec![images, square, height, width]), &[x])?;
    let x = sketch.apply(Permute { axes: vec![0, 2, 1, 3] }, &[x])?;
    let x = sketch.apply(reshape(vec![images * height * factor, factor, width]), &[x])?;
    let x = sketch.apply(Permute { axes: vec![0, 2, 1] }, &[x])?;
    let shape = [before, &[channels / square, height * factor, width * factor]].concat();
    sketch.ending(x, as_it_is, ResultShape::Of(shape))
}

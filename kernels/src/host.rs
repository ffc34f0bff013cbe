//! What is computed on the host before a graph runs: rows of an embedding table, and time embeddings, whose sines of large
//! arguments WGSL does not promise.

use crate::host_tensor::HostTensor;
use crate::types::{Shape, TensorType};

/// Why rows cannot be taken from a table.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GatherError {
    /// The table is not a matrix.
    #[error("embedding table: expected [vocabulary, D], found {found}")]
    NotATable {
        /// Its shape.
        found: Shape,
    },
    /// An id has no row.
    #[error("token {position} has id {id}, the embedding table has {vocabulary} rows")]
    IdOutOfRange {
        /// Position in the sequence.
        position: usize,
        /// The id.
        id: u32,
        /// Rows of the table.
        vocabulary: usize,
    },
}

/// Rows of an embedding table.
///
/// `y[s, :] = table[ids[s], :]`
///
/// # Shapes    `table: [vocabulary, D]`; `ids`: S of them -> `y: [S, D]` as `table`
/// # Errors    [`GatherError`]
/// # Source    torch.nn.functional.embedding
pub fn embedding_gather(table: &HostTensor, ids: &[u32]) -> Result<HostTensor, GatherError> {
    let &[vocabulary, width] = &**table.shape() else {
        return Err(GatherError::NotATable { found: table.shape().clone() });
    };
    let mut data = Vec::with_capacity(ids.len() * width);
    for (position, &id) in ids.iter().enumerate() {
        let row = usize::try_from(id).ok().filter(|row| *row < vocabulary);
        let row = row.ok_or(GatherError::IdOutOfRange { position, id, vocabulary })?;
        data.extend_from_slice(&table.data()[row * width..(row + 1) * width]);
    }
    Ok(HostTensor::new(TensorType::new(table.ty().dtype, [ids.len(), width]), data))
}

/// Sinusoidal embedding of a timestep, `dim` values.
///
/// `sin(t w_i)` for all i, then `cos(t w_i)`, or the cosines first if `flip_sin_to_cos`; `w_i = 10000^(-i / (dim / 2 -
/// freq_shift))`. An odd `dim` ends in a zero.
///
/// # Units     `timestep`: training steps, 0 ..= 999 for Stable Diffusion
/// # Numerics  f64, rounded once; diffusers rounds `t w_i` to f32 and so differs from it by up to `6e-8 t`
/// # Source    Ho et al. 2020; diffusers.models.embeddings.get_timestep_embedding
pub fn time_embedding(timestep: f64, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Vec<f32> {
    let half = dim / 2;
    let angle = |i: usize| timestep * libm::exp(-libm::log(10_000.0) * i as f64 / (half as f64 - freq_shift));
    let sines = (0..half).map(|i| libm::sin(angle(i)) as f32);
    let cosines = (0..half).map(|i| libm::cos(angle(i)) as f32);
    let mut embedding: Vec<f32> =
        if flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
    embedding.resize(dim, 0.0);
    embedding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_in_the_order_of_the_ids() {
        let table = HostTensor::f32([3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let y = embedding_gather(&table, &[2, 0, 2]).expect("ids in range");
        assert_eq!((&**y.shape(), y.data()), (&[3, 2][..], &[4.0, 5.0, 0.0, 1.0, 4.0, 5.0][..]));
    }

    #[test]
    fn an_id_without_a_row_is_named() {
        let table = HostTensor::f32([3, 2], vec![0.0; 6]);
        let error = embedding_gather(&table, &[0, 3]).expect_err("out of range");
        assert_eq!(error.to_string(), "token 1 has id 3, the embedding table has 3 rows");
        let flat = HostTensor::f32([6], vec![0.0; 6]);
        assert!(matches!(embedding_gather(&flat, &[0]), Err(GatherError::NotATable { .. })));
    }

    fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() <= tolerance, "{found} {expected}");
        }
    }

    #[test]
    fn the_embedding_is_that_of_diffusers() {
        // get_timestep_embedding(torch.tensor([7.5]), 8, flip_sin_to_cos=True, downscale_freq_shift=0)
        let expected = [
            0.3466353118419647,
            0.731688916683197,
            0.9971888065338135,
            0.999971866607666,
            0.937999963760376,
            0.6816387176513672,
            0.07492969930171967,
            0.007499929051846266,
        ];
        assert_close(&time_embedding(7.5, 8, true, 0.0), &expected, 1e-6);
        // get_timestep_embedding(torch.tensor([999.0]), 7, flip_sin_to_cos=False, downscale_freq_shift=1)
        let expected = [
            -0.02646075189113617,
            -0.5356031656265259,
            0.09973391145467758,
            0.9996498227119446,
            -0.8444697856903076,
            0.9950141310691833,
            0.0,
        ];
        assert_close(&time_embedding(999.0, 7, false, 1.0), &expected, 1e-6);
    }

    #[test]
    fn late_timesteps_are_exact_where_diffusers_rounds_the_angle() {
        // mpmath: 999 * exp(-log(10000) * i / 160) for i = 0, 17, 33, 50, 159; cosines, then sines
        let embedding = time_embedding(999.0, 320, true, 0.0);
        let picked: Vec<f32> = [0, 17, 33, 50, 159, 160, 177, 193, 210, 319].map(|i| embedding[i]).into();
        let expected = [
            0.9996498529808264,
            0.04123308736820532,
            0.2457477258082085,
            0.9320488506972088,
            0.994406344925126,
            -0.026460752737064126,
            -0.9991495546243745,
            -0.9693338203426586,
            -0.3623326371085169,
            0.1056220676404858,
        ];
        assert_close(&picked, &expected, 6e-8);
    }
}

//! What is computed on the host before a graph runs: WGSL does not promise sines of large arguments.

/// Sinusoidal embedding of a timestep, `dim` values.
///
/// `sin(t w_i)` for all i, then `cos(t w_i)`, or the cosines first if `flip_sin_to_cos`; `w_i = 10000^(-i / (dim / 2 -
/// freq_shift))`. An odd `dim` ends in a zero.
///
/// # Units     `timestep`: training steps, 0 ..= 999 for Stable Diffusion
/// # Numerics  `t`, `w_i` and their product are rounded to f32 as models were trained with, which moves late angles by up to
///   `6e-8 t`; sine and cosine are f64, rounded once
/// # Source    Ho et al. 2020; diffusers.models.embeddings.get_timestep_embedding
pub fn time_embedding(timestep: f64, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Vec<f32> {
    let half = dim / 2;
    let angle = |i: usize| {
        let exponent = -libm::log(10_000.0) as f32 * i as f32 / (half as f64 - freq_shift) as f32;
        f64::from(timestep as f32 * libm::exp(f64::from(exponent)) as f32)
    };
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
    fn late_angles_are_rounded_as_diffusers_rounds_them() {
        // get_timestep_embedding(torch.tensor([593.5022]), 320, flip_sin_to_cos=True, downscale_freq_shift=0)
        let embedding = time_embedding(593.5022, 320, true, 0.0);
        let picked: Vec<f32> = [0, 17, 33, 50, 159, 160, 177, 193, 210, 319].map(|i| embedding[i]).into();
        assert_close(&picked, &LATE, 1e-6);
    }

    const LATE: [f64; 10] = [
        -0.9666941165924072,
        -0.9999737739562988,
        0.6694533228874207,
        -0.3786649703979492,
        0.9980245232582092,
        0.255934476852417,
        -0.007239525206387043,
        0.742854118347168,
        0.9255338311195374,
        0.06282553821802139,
    ];
}

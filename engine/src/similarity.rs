//! How alike two pictures are.

/// Pixels from the middle of SSIM's window to its edge, and the deviation of its weights: 11 x 11, 1.5.
const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;
/// What keeps SSIM's quotients from division by zero, for values up to 255.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// How alike two pictures of one size are, over all channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// Peak signal-to-noise ratio in dB, of 255; infinite where they are equal.
    pub psnr: f64,
    /// Mean structural similarity, 1 where they are equal; `None` for pictures smaller than its window.
    pub ssim: Option<f64>,
    /// Largest difference of a channel.
    pub max_difference: u8,
    /// Pixels of which a channel differs.
    pub different_pixels: usize,
}

/// Compares pictures of `width` pixels a row, three bytes a pixel.
///
/// # Panics
/// If the lengths differ or are no whole rows: a programming error.
///
/// # Source    Wang, Bovik, Sheikh & Simoncelli 2004, with weights and borders as in skimage.metrics.structural_similarity
pub fn compare_pictures(a: &[u8], b: &[u8], width: usize) -> Similarity {
    assert_eq!(a.len(), b.len(), "sizes of the pictures");
    assert!(a.len().is_multiple_of(3 * width.max(1)), "whole rows");
    let pairs = || a.iter().zip(b);
    let squares: f64 = pairs().map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    let mse = squares / a.len().max(1) as f64;
    Similarity {
        psnr: 10.0 * (255.0f64.powi(2) / mse).log10(),
        ssim: ssim(a, b, width),
        max_difference: pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0),
        different_pixels: a.chunks(3).zip(b.chunks(3)).filter(|(a, b)| a != b).count(),
    }
}

fn ssim(a: &[u8], b: &[u8], width: usize) -> Option<f64> {
    let height = a.len() / (3 * width.max(1));
    if width <= 2 * RADIUS || height <= 2 * RADIUS {
        return None;
    }
    let channels = [0, 1, 2].map(|channel| {
        let plane =
            |x: &[u8]| -> Vec<f64> { x.iter().skip(channel).step_by(3).map(|v| f64::from(*v)).collect() };
        ssim_of_plane(&plane(a), &plane(b), width)
    });
    Some(channels.iter().sum::<f64>() / 3.0)
}

fn ssim_of_plane(a: &[f64], b: &[f64], width: usize) -> f64 {
    let product = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let blurred = |x: &[f64]| blurred(x, width);
    let (mean_a, mean_b) = (blurred(a), blurred(b));
    let (aa, bb, ab) = (blurred(&product(a, a)), blurred(&product(b, b)), blurred(&product(a, b)));
    let values = (0..mean_a.len()).map(|i| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    });
    values.sum::<f64>() / mean_a.len() as f64
}

/// Weighted means over every window that lies in the picture.
fn blurred(x: &[f64], width: usize) -> Vec<f64> {
    let weight = |i: usize| (-0.5 * ((i as f64 - RADIUS as f64) / SIGMA).powi(2)).exp();
    let sum: f64 = (0..=2 * RADIUS).map(weight).sum();
    let weights: Vec<f64> = (0..=2 * RADIUS).map(|i| weight(i) / sum).collect();
    let along = |x: &[f64], stride: usize, at: usize| -> f64 {
        weights.iter().enumerate().map(|(i, weight)| weight * x[at + i * stride]).sum()
    };
    let columns = width - 2 * RADIUS;
    let rows = x.len() / width;
    let horizontal: Vec<f64> =
        (0..rows * columns).map(|i| along(x, 1, i / columns * width + i % columns)).collect();
    (0..(rows - 2 * RADIUS) * columns).map(|i| along(&horizontal, columns, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of 20 x 16 pixels, and one that differs in places.
    fn pictures() -> [Vec<u8>; 2] {
        let value = |i: usize| (i * 37 % 251) as u8;
        let a: Vec<u8> = (0..20 * 16 * 3).map(value).collect();
        let b =
            a.iter().enumerate().map(|(i, v)| if i % 5 == 0 { v.saturating_add((i % 40) as u8) } else { *v });
        [a.clone(), b.collect()]
    }

    #[test]
    fn figures_are_those_of_scikit_image() {
        let [a, b] = pictures();
        let found = compare_pictures(&a, &b, 20);
        // skimage.metrics.peak_signal_noise_ratio(a, b), structural_similarity(a, b, channel_axis=2, gaussian_weights=True,
        // sigma=1.5, use_sample_covariance=False, data_range=255), on [16, 20, 3] uint8
        assert!((found.psnr - 28.962427357140793).abs() < 1e-9, "{found:?}");
        assert!((found.ssim.expect("large enough") - 0.9929712351809004).abs() < 1e-9, "{found:?}");
        assert_eq!((found.max_difference, found.different_pixels), (35, 168));
    }

    #[test]
    fn equal_pictures_are_equal_and_small_ones_have_no_ssim() {
        let [a, _] = pictures();
        let same = compare_pictures(&a, &a, 20);
        let ssim = same.ssim.expect("large enough");
        assert!(same.psnr.is_infinite() && (ssim - 1.0).abs() < 1e-12, "{same:?}");
        assert_eq!((same.max_difference, same.different_pixels), (0, 0));
        assert_eq!(compare_pictures(&a[..600], &a[..600], 20).ssim, None);
    }
}

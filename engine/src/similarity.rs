//! How alike two pictures are.

use std::thread;

/// Pixels from the middle of SSIM's window to its edge, and the deviation of its weights: 11 x 11, 1.5.
const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;
/// Rows of windows that are compared at once.
const BAND: usize = 64;
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
    // In bands of windows, for what a window is compared by takes ten times the memory of the pictures.
    let bands: Vec<usize> = (0..height - 2 * RADIUS).step_by(BAND).collect();
    let sum_of = |first: &usize| -> f64 {
        let rows = (BAND + 2 * RADIUS).min(height - first);
        let bytes = 3 * width * first..3 * width * (first + rows);
        (0..3).map(|channel| ssim_of_plane(&a[bytes.clone()], &b[bytes.clone()], channel, width)).sum()
    };
    let sum_of = &sum_of;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let sum: f64 = thread::scope(|scope| {
        let parts = bands.chunks(bands.len().div_ceil(threads));
        let workers: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(sum_of).sum::<f64>())).collect();
        workers.into_iter().map(|worker| worker.join().expect("sums do not panic")).sum()
    });
    Some(sum / (3 * (height - 2 * RADIUS) * (width - 2 * RADIUS)) as f64)
}

/// The sum of SSIM over every window of one channel.
fn ssim_of_plane(a: &[u8], b: &[u8], channel: usize, width: usize) -> f64 {
    let plane = |x: &[u8]| -> Vec<f64> { x.iter().skip(channel).step_by(3).map(|v| f64::from(*v)).collect() };
    let product = |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let blurred = |x: &[f64]| blurred(x, width);
    let (a, b) = (plane(a), plane(b));
    let (mean_a, mean_b) = (blurred(&a), blurred(&b));
    let (aa, bb, ab) = (blurred(&product(&a, &a)), blurred(&product(&b, &b)), blurred(&product(&a, &b)));
    let values = (0..mean_a.len()).map(|i| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    });
    values.sum()
}

/// Weighted means over every window that lies in the picture.
fn blurred(x: &[f64], width: usize) -> Vec<f64> {
    let weight = |i: usize| (-0.5 * ((i as f64 - RADIUS as f64) / SIGMA).powi(2)).exp();
    let sum: f64 = (0..=2 * RADIUS).map(weight).sum();
    let weights: Vec<f64> = (0..=2 * RADIUS).map(|i| weight(i) / sum).collect();
    let columns = width - 2 * RADIUS;
    // Adds `weight` times each value that is one offset away: a loop over neighbours, as processors like it.
    let add = |to: &mut [f64], from: &[f64], weight: f64| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
    };
    let mut horizontal = vec![0.0; x.len() / width * columns];
    for (to, from) in horizontal.chunks_exact_mut(columns).zip(x.chunks_exact(width)) {
        weights.iter().enumerate().for_each(|(i, weight)| add(to, &from[i..i + columns], *weight));
    }
    let mut windows = vec![0.0; (x.len() / width - 2 * RADIUS) * columns];
    for (i, weight) in weights.iter().enumerate() {
        let from = &horizontal[i * columns..i * columns + windows.len()];
        add(&mut windows, from, *weight);
    }
    windows
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
    fn bands_leave_no_window_out() {
        let (width, band) = (40, BAND);
        for height in [band + 2 * RADIUS, band + 2 * RADIUS + 1, 3 * band + 8] {
            let a: Vec<u8> = (0..width * height * 3).map(|i| (i * 37 % 251) as u8).collect();
            // Differences grow downwards, so that no row can stand for another.
            let b: Vec<u8> =
                a.iter().enumerate().map(|(i, v)| v ^ (i % 3 * i / (3 * width * 4)) as u8).collect();
            let whole: f64 = (0..3).map(|channel| ssim_of_plane(&a, &b, channel, width)).sum();
            let whole = whole / (3 * (height - 2 * RADIUS) * (width - 2 * RADIUS)) as f64;
            let banded = ssim(&a, &b, width).expect("large enough");
            assert!((banded - whole).abs() < 1e-12 && whole < 0.999, "{height}: {banded} {whole}");
        }
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

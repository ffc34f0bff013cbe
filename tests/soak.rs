//! Many pictures in one process: nothing grows, nothing changes.
//!
//! `SOAK=1000` draws as many; 200 otherwise.

use std::collections::HashMap;

use engine::device::GpuOptions;
use engine::pipelines::{Model, Pipeline, Precision};
use photogram_tests::{draw_tiny, fixture, gpu_with};
use pollster::block_on;

/// Bytes that the process may grow by with each picture.
const MOST_GROWTH: f64 = 65_536.0;

/// Bytes of this process that are in memory, where the system tells.
fn resident_bytes() -> Option<f64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(4096.0 * pages.split_whitespace().nth(1)?.parse::<f64>().ok()?)
}

/// Growth from one value to the next, by least squares.
fn slope(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let product = |(i, y): (usize, &f64)| (i as f64 - mean_x) * (y - mean_y);
    let square = |i: usize| (i as f64 - mean_x).powi(2);
    values.iter().enumerate().map(product).sum::<f64>() / (0..values.len()).map(square).sum::<f64>()
}

fn drawn(pipeline: &mut Pipeline, width: usize) -> Vec<u8> {
    draw_tiny(pipeline, width).expect("nothing fails")
}

#[test]
fn many_pictures_take_no_more_than_few() {
    let Some(gpu) = gpu_with(GpuOptions::default()) else { return };
    let pictures = std::env::var("SOAK").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    let model = block_on(Model::open(&fixture("pipelines/sd1_layout/model"), None, Precision::F32));
    let mut pipeline = Pipeline::new(gpu.clone(), model.expect("fixtures are sound"));
    // Another size every seventh time: its programs are there from the second time on.
    let edge = |number: usize| if number % 7 == 6 { 48 } else { 32 };
    let first = [drawn(&mut pipeline, 32), drawn(&mut pipeline, 48)];
    // By what a picture's size is and that of the one before: buffers of a size go with it.
    let mut held: HashMap<[usize; 2], u64> = HashMap::new();
    let mut resident = Vec::new();
    for number in 0..pictures {
        let picture = drawn(&mut pipeline, edge(number));
        assert!(picture == first[usize::from(edge(number) == 48)], "picture {number} has other bytes");
        let state = [edge(number.max(1) - 1), edge(number)];
        let bytes = *held.entry(state).or_insert(gpu.held_bytes());
        assert_eq!(gpu.held_bytes(), bytes, "after picture {number}");
        resident.extend(resident_bytes());
    }
    let later = &resident[resident.len() / 2..];
    if later.len() > 1 {
        let growth = slope(later);
        println!(
            "{pictures} pictures, {} bytes on the device, {growth:.0} bytes more in memory with each",
            gpu.held_bytes()
        );
        assert!(growth <= MOST_GROWTH, "{growth} bytes with each picture");
    }
}

#[test]
fn a_slope_is_what_is_added_each_time() {
    assert!((slope(&[5.0, 8.0, 11.0, 14.0]) - 3.0).abs() < 1e-12);
    assert!(slope(&[5.0, 6.0, 6.0, 5.0]).abs() < 1e-12);
}

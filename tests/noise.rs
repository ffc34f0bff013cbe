//! Noise against torch's CPU generator (`reference/noise.py`) and against known Philox vectors.

use engine::noise::{Generator, Mt19937, RngKind, Seed, TorchCpu, philox4x32};
use serde_json::Value;

/// torch differs from itself by 2.3e-6 between CPUs.
const NORMAL_TOLERANCE: f32 = 4e-6;
/// Layout of the fixture: of tensors over 64, every 61st element and the last 16.
const MAX_WHOLE: usize = 64;
const STRIDE: usize = 61;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/noise/torch_cpu.json");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn f32s(value: &Value) -> Vec<f32> {
    list(value).iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn kept(values: Vec<f32>) -> Vec<f32> {
    if values.len() <= MAX_WHOLE {
        return values;
    }
    let (head, tail) = values.split_at(values.len() - 16);
    head.iter().step_by(STRIDE).chain(tail).copied().collect()
}

fn are_close(ours: &[f32], torch: &[f32]) -> bool {
    let close = |(ours, torch): (&f32, &f32)| (ours - torch).abs() <= NORMAL_TOLERANCE;
    ours.len() == torch.len() && ours.iter().zip(torch).all(close)
}

#[test]
fn consecutive_draws_are_torchs() {
    let fixture = fixture();
    for stream in list(&fixture["streams"]) {
        let seed = Seed(stream["seed"].as_u64().unwrap());
        if let Some(negative) = stream["negative"].as_i64() {
            assert_eq!(Seed::from(negative), seed);
        }
        let mut generator = TorchCpu::new(seed);
        for (i, draw) in list(&stream["draws"]).iter().enumerate() {
            let n = usize::try_from(draw["n"].as_u64().unwrap()).unwrap();
            let values = &draw["values"];
            let label = format!("{seed:?}, draw {i}");
            match draw["kind"].as_str().unwrap() {
                "bits" => {
                    let torch: Vec<u64> = list(values).iter().map(|bits| bits.as_u64().unwrap()).collect();
                    assert_eq!((0..n).map(|_| generator.next_u64()).collect::<Vec<_>>(), torch, "{label}");
                }
                "uniform_f32" => {
                    let ours: Vec<f32> = (0..n).map(|_| generator.next_uniform_f32()).collect();
                    assert_eq!(ours, f32s(values), "{label}");
                }
                "uniform_f64" => {
                    let torch: Vec<f64> =
                        list(values).iter().map(|number| number.as_f64().unwrap()).collect();
                    let ours: Vec<f64> = (0..n).map(|_| generator.next_uniform_f64()).collect();
                    assert_eq!(ours, torch, "{label}");
                }
                "normal" => {
                    let ours = kept(generator.normal(n));
                    assert!(are_close(&ours, &f32s(values)), "{label}: {ours:?}");
                }
                kind => panic!("{kind}"),
            }
        }
    }
}

#[test]
fn every_small_size_is_torchs() {
    let fixture = fixture();
    let sizes = list(&fixture["sizes"]);
    assert_eq!(sizes.len(), 40);
    for (i, torch) in sizes.iter().enumerate() {
        let ours = Generator::new(RngKind::Cpu, Seed(1234)).normal(i + 1);
        assert!(are_close(&ours, &f32s(torch)), "{} elements: {ours:?}", i + 1);
    }
}

#[test]
fn the_comparison_rejects_what_is_wrong() {
    let fixture = fixture();
    let torch = f32s(&fixture["sizes"][39]);
    let mut ours = Generator::new(RngKind::Cpu, Seed(1234)).normal(40);
    assert!(are_close(&ours, &torch));
    assert!(!are_close(&Generator::new(RngKind::Cpu, Seed(1235)).normal(40), &torch));
    assert!(!are_close(&[0.0; 40], &torch));
    assert!(!are_close(&ours[..39], &torch));
    ours[17] += 10.0 * NORMAL_TOLERANCE;
    assert!(!are_close(&ours, &torch));
    ours[17] = f32::NAN;
    assert!(!are_close(&ours, &torch));
}

/// The first and the thousandth output of the authors' `mt19937ar.out` for seed 5489.
#[test]
fn mt19937_gives_the_standard_stream() {
    let mut engine = Mt19937::new(5489);
    assert_eq!(engine.next_u32(), 3_499_211_612);
    // C++ [rand.predef] requires this of mt19937.
    assert_eq!((0..9999).map(|_| engine.next_u32()).last(), Some(4_123_659_995));
}

/// Bits that any machine must draw: the low half of a hash over normals of both branches.
#[test]
fn normals_are_the_same_bits_everywhere() {
    for (kind, expected) in [(RngKind::Cpu, CPU_HASH), (RngKind::Cuda, CUDA_HASH)] {
        let mut generator = Generator::new(kind, Seed(7));
        let draws = [generator.normal(7), generator.normal(4096), generator.normal(3)];
        let fnv = |hash: u64, value: &f32| (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3);
        let hash = draws.iter().flatten().fold(0xcbf2_9ce4_8422_2325, fnv);
        assert_eq!(hash, expected, "{kind:?}: {hash:#x}");
    }
}

const CPU_HASH: u64 = 0xcdca_b227_0581_7ffc;
const CUDA_HASH: u64 = 0x8657_dbef_a858_e8f5;

/// Vectors of the Random123 distribution for philox4x32-10.
#[test]
fn philox_gives_the_authors_vectors() {
    let zeros = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
    assert_eq!(philox4x32([0; 4], [0; 2]), zeros);
    let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
    assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), ones);
    let pi = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    assert_eq!(philox4x32(counter, [0xa409_3822, 0x299f_31d0]), pi);
}

/// The beginning of `torch.randn(3, 4, device="cuda")` of seed 0.
#[test]
fn cuda_normals_are_torchs() {
    let torch = [-0.924_662_6, -0.425_344_15, -2.643_845_7, 0.145_183_88, -0.120_866_47];
    let ours = Generator::new(RngKind::Cuda, Seed(0)).normal(12);
    assert!(are_close(&ours[..5], &torch), "{ours:?}");
}

#[test]
fn each_image_and_each_draw_has_its_own_noise() {
    for kind in [RngKind::Cpu, RngKind::Cuda] {
        let mut first = Generator::new(kind, Seed(u64::MAX));
        let mut second = Generator::new(kind, Seed(u64::MAX).of_image(1));
        assert_eq!(Seed(u64::MAX).of_image(1), Seed(0));
        let draws = [first.normal(64), first.normal(64), second.normal(64)];
        assert!(draws[0] != draws[1] && draws[0] != draws[2]);
        assert_eq!(draws[0], Generator::new(kind, Seed(u64::MAX)).normal(64));
    }
}

//! Files we write, read by us and by the reference reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use photogram_loaders::safetensors::{Data, Limits, Tensor, to_bytes, write};
use photogram_loaders::{BytesSource, Checkpoint, Encoding, Error};
use pollster::block_on;

const F32S: [f32; 6] = [0.0, -1.5, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE, 3.25];
const F16_BITS: [u16; 3] = [0x3c00, 0x7c00, 0x8001];

fn tensors() -> [Tensor<'static>; 4] {
    [
        Tensor { name: "half", shape: &[3, 1], data: Data::F16Bits(&F16_BITS) },
        Tensor { name: "latent.0", shape: &[1, 2, 3], data: Data::F32(&F32S) },
        Tensor { name: "empty", shape: &[0, 4], data: Data::F32(&[]) },
        Tensor { name: "scalar \u{1b} \"é\"", shape: &[], data: Data::F32(&[7.0]) },
    ]
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("prompt".to_owned(), "a \"red\"\napple 🍎".to_owned())])
}

#[test]
fn what_is_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump.safetensors");
    write(&path, &tensors(), &metadata()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), to_bytes(&tensors(), &metadata()).unwrap());

    let checkpoint = block_on(Checkpoint::open(&path, &Limits::default())).unwrap();
    assert_eq!(checkpoint.metadata(), &metadata());
    assert_eq!(checkpoint.names().len(), 4);
    assert_eq!(checkpoint.bytes(), 7 * 4 + 3 * 2);
    let totals: Vec<_> = checkpoint.encodings().iter().map(|t| (t.encoding, t.n_tensors, t.bytes)).collect();
    assert_eq!(totals, [(Encoding::F16, 1, 6), (Encoding::F32, 3, 28)]);

    let latent = checkpoint.require("latent.0").unwrap();
    assert_eq!((latent.to_string().as_str(), latent.n_values()), ("F32[1, 2, 3]", 6));
    let expected: Vec<u8> = F32S.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(block_on(checkpoint.read(latent)).unwrap(), expected);
    let mut middle = [0; 8];
    block_on(checkpoint.read_into(latent, 4..12, &mut middle)).unwrap();
    assert_eq!(middle, expected[4..12]);
    for (range, n) in [(20..28, 8), (4..12, 7), (24..25, 1), (u64::MAX - 1..u64::MAX, 1)] {
        let error = block_on(checkpoint.read_into(latent, range, &mut vec![0; n])).unwrap_err();
        assert!(error.to_string().contains("tensor 'latent.0'"), "{error}");
    }
    #[allow(clippy::reversed_empty_ranges, reason = "the case is a range that ends before it begins")]
    let reversed = 12..4;
    assert!(block_on(checkpoint.read_into(latent, reversed, &mut [0; 8])).is_err());
}

#[test]
fn the_reference_reader_reads_it_too() {
    let bytes = to_bytes(&tensors(), &metadata()).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for tensor in tensors() {
        let view = reference.tensor(tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        let data: Vec<u8> = match tensor.data {
            Data::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Data::F16Bits(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        assert_eq!(view.data(), data);
    }
    let (header_bytes, _) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_bytes % 8, 0);
}

#[test]
fn we_read_what_the_reference_writer_writes() {
    let data: Vec<u8> = (0..48).collect();
    let views = [
        ("a", safetensors::Dtype::BF16, vec![2, 3], 12),
        ("b", safetensors::Dtype::I64, vec![2], 16),
        ("c", safetensors::Dtype::F8_E4M3, vec![5], 5),
        ("d", safetensors::Dtype::BOOL, vec![], 1),
    ]
    .map(|(name, dtype, shape, n)| {
        (name, safetensors::tensor::TensorView::new(dtype, shape, &data[..n]).unwrap())
    });
    let bytes = safetensors::serialize(views.clone(), Some(metadata().into_iter().collect())).unwrap();
    let source = Arc::new(BytesSource::new("x", bytes));
    let checkpoint = block_on(Checkpoint::from_source(source, &Limits::default())).unwrap();
    assert_eq!(checkpoint.metadata(), &metadata());
    for (name, view) in &views {
        let entry = checkpoint.require(name).unwrap();
        assert_eq!(
            (entry.encoding.name(), entry.shape.as_slice()),
            (view.dtype().to_string().as_str(), view.shape())
        );
        assert_eq!(block_on(checkpoint.read(entry)).unwrap(), view.data());
    }
}

#[test]
fn what_contradicts_itself_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let one = Tensor { name: "w", shape: &[1], data: Data::F32(&[1.0]) };
    let cases = [
        vec![one, one],
        vec![Tensor { shape: &[2], ..one }],
        vec![Tensor { shape: &[usize::MAX, 2], ..one }],
        vec![Tensor { name: "__metadata__", ..one }],
    ];
    for tensors in cases {
        assert!(matches!(write(&path, &tensors, &BTreeMap::new()), Err(Error::Output { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

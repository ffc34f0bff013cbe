//! The safetensors reader against hand-made files, the reference reader and a mutator.

mod corpus;
mod mutation;
mod round_trip;

use std::sync::Arc;

use photogram_loaders::safetensors::{Header, Limits, read_header};
use photogram_loaders::{BytesSource, Error};
use pollster::block_on;

/// A file of a header that says how long it is, and `n_data` bytes.
fn file(json: impl AsRef<[u8]>, n_data: usize) -> Vec<u8> {
    let json = json.as_ref();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len() + n_data, 0x5a);
    bytes
}

fn read(bytes: Vec<u8>) -> Result<Header, Error> {
    let source = Arc::new(BytesSource::new("x.safetensors", bytes));
    block_on(read_header(&*source, &Limits::default()))
}

/// What the format promises of any file that is accepted.
fn assert_sound(header: &Header, file_bytes: usize) {
    let mut reached = None;
    for tensor in &header.tensors {
        let n_values: usize = tensor.shape.iter().product();
        assert_eq!(tensor.bytes, n_values as u64 * tensor.encoding.bytes());
        assert!(reached.is_none_or(|reached| reached == tensor.offset));
        reached = Some(tensor.offset + tensor.bytes);
        assert!(tensor.shape.len() <= Limits::default().rank);
    }
    assert!(reached.is_none_or(|reached| reached == file_bytes as u64));
}

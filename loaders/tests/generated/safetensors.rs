//! safetensors files; what is accepted means the same to the reference reader.

use photogram_loaders::safetensors::{Header, Limits, read_header};
use photogram_loaders::{BytesSource, Encoding, Error};
use pollster::block_on;

use super::random::{NUMBERS, Random, STRINGS, mutated_text};
use super::run;

const FILE: &str = "x.safetensors";

/// A tensor's entry as JSON text.
struct Entry {
    name: String,
    dtype: String,
    dims: Vec<String>,
    offsets: Vec<String>,
    /// Comes after the fields.
    more: String,
}

impl Entry {
    fn json(&self) -> String {
        let Self { name, dtype, dims, offsets, more } = self;
        format!(
            r#"{name}:{{"dtype":{dtype},"shape":[{}],"data_offsets":[{}]{more}}}"#,
            dims.join(","),
            offsets.join(",")
        )
    }
}

/// A file in parts.
struct Parts {
    entries: Vec<Entry>,
    metadata: Vec<(String, String)>,
    /// What the file says its header's length is, if that is not true.
    claimed: Option<u64>,
    n_data: usize,
}

impl Parts {
    fn sound(random: &mut Random) -> Self {
        let mut begin = 0;
        let mut entries = Vec::new();
        for idx in 0..random.below(5) {
            let encoding = random.pick(&Encoding::ALL);
            let shape: Vec<usize> = (0..random.below(5)).map(|_| random.below(4)).collect();
            let end = begin + encoding.bytes() as usize * shape.iter().product::<usize>();
            entries.push(Entry {
                name: format!("\"t{idx}\""),
                dtype: format!("\"{encoding}\""),
                dims: shape.iter().map(ToString::to_string).collect(),
                offsets: vec![begin.to_string(), end.to_string()],
                more: String::new(),
            });
            begin = end;
        }
        let metadata = (0..random.below(3)).map(|idx| (format!("\"k{idx}\""), "\"v\"".to_owned())).collect();
        random.shuffle(&mut entries);
        Self { entries, metadata, claimed: None, n_data: begin }
    }

    fn break_one(&mut self, random: &mut Random) {
        let n = self.entries.len();
        let kind = if n == 0 { random.below(5) } else { random.below(16) };
        match kind {
            0 => {
                let extremes = [0, 1, 7, 1 << 24, (1 << 24) + 1, 1 << 32, 1 << 63, u64::MAX - 7, u64::MAX];
                self.claimed = Some(random.pick(&extremes));
            }
            1 => self.n_data += 1 + random.below(9),
            2 => self.n_data = self.n_data.saturating_sub(1 + random.below(9)),
            3 => self.metadata.push(("\"k0\"".into(), random.pick(&STRINGS).into())),
            4 => self.metadata.push((random.pick(&STRINGS).into(), "\"v\"".into())),
            5 => {
                let again = random.below(n);
                let entry = &self.entries[again];
                let copy = Entry {
                    name: entry.name.clone(),
                    dtype: entry.dtype.clone(),
                    dims: entry.dims.clone(),
                    offsets: entry.offsets.clone(),
                    more: String::new(),
                };
                self.entries.push(copy);
            }
            _ => {
                let at = random.below(n);
                let other = self.entries[random.below(n)].offsets.clone();
                let entry = &mut self.entries[at];
                let number = random.pick(&NUMBERS).to_owned();
                match kind {
                    6 => entry.name = random.pick(&STRINGS).into(),
                    7 => entry.name = format!("\"{}\"", "n".repeat(1_023 + random.below(3))),
                    8 => entry.dtype = random.pick(&STRINGS).into(),
                    9 => entry.dtype = format!("\"{}\"", random.pick(&Encoding::ALL)),
                    10 if !entry.dims.is_empty() => {
                        let dim = random.below(entry.dims.len());
                        entry.dims[dim] = number;
                    }
                    10 | 11 => entry.dims.push(number),
                    12 => entry.dims.extend(vec!["1".into(); random.below(12)]),
                    13 => entry.offsets[random.below(2)] = number,
                    14 => entry.offsets = other,
                    _ => {
                        let more = [
                            r#","dtype":"F32""#,
                            r#","shape":[]"#,
                            r#","data_offsets":[0,0]"#,
                            r#","x":null"#,
                            ",",
                            "}",
                        ];
                        entry.more = random.pick(&more).into();
                    }
                }
            }
        }
    }

    fn json(&self) -> String {
        let metadata: Vec<_> = self.metadata.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        let metadata =
            (!metadata.is_empty()).then(|| format!(r#""__metadata__":{{{}}}"#, metadata.join(",")));
        let entries = self.entries.iter().map(Entry::json);
        format!("{{{}}}", metadata.into_iter().chain(entries).collect::<Vec<_>>().join(","))
    }
}

fn file(json: &[u8], claimed: Option<u64>, n_data: usize) -> Vec<u8> {
    let mut bytes = claimed.unwrap_or(json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len() + n_data, 0x5a);
    bytes
}

/// What the format promises of any file that is accepted: the tensors follow each other from the header to the end.
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

/// Reads one file, and if it is accepted, the other way, too.
fn check(bytes: Vec<u8>) -> Result<(), (String, Error)> {
    let source = BytesSource::new(FILE, bytes.clone());
    let header = block_on(read_header(&source, &Limits::default())).map_err(|error| (FILE.into(), error))?;
    assert_sound(&header, bytes.len());
    let (n, metadata) = safetensors::SafeTensors::read_metadata(&bytes)
        .expect("the reference reader accepts what is accepted");
    assert_eq!(8 + n + metadata.data_len(), bytes.len());
    assert_eq!(metadata.tensors().len(), header.tensors.len());
    for tensor in &header.tensors {
        let info = metadata.info(&tensor.name).unwrap();
        assert_eq!(info.shape, tensor.shape);
        assert_eq!(format!("{}", info.dtype), tensor.encoding.name());
        assert_eq!((8 + n + info.data_offsets.0) as u64, tensor.offset);
    }
    Ok(())
}

#[test]
fn safetensors_with_one_thing_broken() {
    run("safetensors, one thing broken", 15..=60, |random, idx| {
        let mut parts = Parts::sound(random);
        let is_sound = idx % 8 == 0;
        if !is_sound {
            parts.break_one(random);
        }
        let read = check(file(parts.json().as_bytes(), parts.claimed, parts.n_data));
        assert!(!is_sound || read.is_ok(), "{read:?}");
        read
    });
}

#[test]
fn safetensors_mutated_blindly() {
    run("safetensors, blind", 2..=60, |random, _| {
        let parts = Parts::sound(random);
        check(file(&mutated_text(parts.json().as_bytes(), random), None, parts.n_data))
    });
}

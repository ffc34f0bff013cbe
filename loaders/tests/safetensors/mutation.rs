//! Mutated headers with a fixed seed: nothing panics, and what is accepted is sound and means the same to the
//! reference reader.

use photogram_loaders::Error;

use super::{assert_sound, file, read};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const EXTREMES: [&str; 12] = [
    "0",
    "-1",
    "1e3",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1.0",
    "null",
    "\"\"",
    "[]",
];

const PIECES: [&str; 14] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\u0000",
    "\\",
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "F32",
];

const DTYPES: [&str; 6] = ["F32", "F16", "BF16", "I64", "U8", "BOOL"];

/// A header whose offsets follow its shapes, one number replaced by an extreme one in half the cases.
fn consistent(random: &mut Random) -> (String, usize) {
    let mut begin = 0;
    let mut entries = Vec::new();
    for idx in 0..random.below(4) {
        let dtype = *random.pick(&DTYPES);
        let bytes = match dtype {
            "F32" => 4,
            "F16" | "BF16" => 2,
            "I64" => 8,
            _ => 1,
        };
        let shape: Vec<usize> = (0..random.below(4)).map(|_| random.below(4)).collect();
        let end = begin + bytes * shape.iter().product::<usize>();
        let mut numbers: Vec<String> = shape.iter().map(ToString::to_string).collect();
        numbers.extend([begin.to_string(), end.to_string()]);
        if random.below(4) == 0 {
            let idx = random.below(numbers.len());
            numbers[idx] = (*random.pick(&EXTREMES)).to_owned();
        }
        let (dims, offsets) = numbers.split_at(shape.len());
        entries.push(format!(
            r#""t{idx}":{{"dtype":"{dtype}","shape":[{}],"data_offsets":[{}]}}"#,
            dims.join(","),
            offsets.join(",")
        ));
        begin = end;
    }
    (format!("{{{}}}", entries.join(",")), begin)
}

/// One to three bytes, pieces or ranges of `json` changed.
fn mutated(json: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = json.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match random.below(5) {
            0 if rest > 0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.splice(at..at, random.pick(&PIECES).bytes())),
            2 => drop(bytes.splice(at..at, random.pick(&EXTREMES).bytes())),
            3 => drop(bytes.drain(at..at + random.below(rest.min(12) + 1))),
            _ => {
                let copied = bytes[at..at + random.below(rest.min(40) + 1)].to_vec();
                drop(bytes.splice(at..at, copied));
            }
        }
    }
    bytes
}

/// Reads one file both ways; -> whether it was accepted.
fn check(json: &[u8], n_data: usize) -> bool {
    let bytes = file(json, n_data);
    let n_bytes = bytes.len();
    let reference = safetensors::SafeTensors::read_metadata(&bytes).map(|(n, metadata)| (8 + n, metadata));
    match read(bytes) {
        Ok(header) => {
            assert_sound(&header, n_bytes);
            let (start, metadata) = reference.expect("the reference reader accepts what is accepted");
            assert_eq!(start + metadata.data_len(), n_bytes);
            assert_eq!(metadata.tensors().len(), header.tensors.len());
            for tensor in &header.tensors {
                let info = metadata.info(&tensor.name).unwrap();
                assert_eq!(info.shape, tensor.shape);
                assert_eq!(format!("{}", info.dtype), tensor.encoding.name());
                assert_eq!((start + info.data_offsets.0) as u64, tensor.offset);
            }
            true
        }
        Err(Error::Malformed { .. } | Error::Unsupported { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_hundred_thousand_headers_do_no_harm() {
    let mut random = Random(0x70_68_6f_74_6f);
    let mut n_accepted = [0; 2];
    for idx in 0..100_000 {
        let (json, n_data) = consistent(&mut random);
        let is_blind = idx % 2 == 1;
        let json = if is_blind { mutated(&json, &mut random) } else { json.into_bytes() };
        n_accepted[usize::from(is_blind)] += usize::from(check(&json, n_data));
    }
    // Both kinds reach the accepting path and the refusing ones.
    for n in n_accepted {
        assert!((2_000..48_000).contains(&n), "{n_accepted:?}");
    }
}

//! A generator with a seed, and blind mutation of bytes.

/// SplitMix64.
pub(super) struct Random(u64);

impl Random {
    /// The generator of input `idx`, so that one input can be made alone.
    pub(super) fn of(idx: u64) -> Self {
        let mut random = Self(idx ^ 0x70_68_6f_74_6f);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Whether one of `n` equal chances came.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// The values in another order.
    pub(super) fn shuffle<T>(&mut self, values: &mut [T]) {
        for idx in (1..values.len()).rev() {
            values.swap(idx, self.below(idx + 1));
        }
    }
}

/// What stands where a number should, as JSON text.
pub(super) const NUMBERS: [&str; 21] = [
    "0",
    "1",
    "-1",
    "-0",
    "1e3",
    "1e999",
    "1.0",
    "0.5",
    "255",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "NaN",
    "-Infinity",
    "null",
    "\"1\"",
    "[]",
];

/// What stands where a string should, as JSON text.
pub(super) const STRINGS: [&str; 16] = [
    r#""""#,
    r#""\u0000""#,
    r#""\u001b[2J""#,
    r#""\u202e""#,
    r#""\ud800""#,
    r#""../x""#,
    r#""/etc/passwd""#,
    r#""C:\\x""#,
    r#""a\nb""#,
    "\"\u{732b}\u{10ffff}\"",
    "\"\u{1}\"",
    "\"",
    "1",
    "null",
    "{}",
    "[]",
];

/// Pieces of the formats that are text.
const PIECES: [&str; 20] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "\\u0000",
    "\\",
    "\\ud83c",
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "F32",
    "</w>",
    "../",
    "\u{1b}",
];

/// One to three bytes, pieces or ranges of a text changed.
pub(super) fn mutated_text(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match random.below(6) {
            0 if rest > 0 => bytes[at] = random.next() as u8,
            1 => drop(bytes.splice(at..at, random.pick(&PIECES).bytes())),
            2 => drop(bytes.splice(at..at, random.pick(&NUMBERS).bytes())),
            3 => drop(bytes.drain(at..at + random.below(rest.min(12) + 1))),
            4 if random.one_in(8) => bytes.truncate(at),
            _ => {
                let copied = bytes[at..at + random.below(rest.min(40) + 1)].to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, copied));
            }
        }
    }
    bytes
}

/// One to three bytes, numbers or ranges of a binary file changed.
pub(super) fn mutated_bytes(file: &[u8], random: &mut Random) -> Vec<u8> {
    const EXTREMES: [u32; 8] = [0, 1, 0x7fff, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match random.below(7) {
            0 if rest > 0 => bytes[at] = random.next() as u8,
            1 if rest > 0 => bytes[at] ^= 1 << random.below(8),
            2 if rest >= 4 => {
                let extreme = random.pick(&EXTREMES);
                let number = if random.one_in(2) { extreme.to_be_bytes() } else { extreme.to_le_bytes() };
                bytes[at..at + 4].copy_from_slice(&number);
            }
            3 => drop(bytes.drain(at..at + random.below(rest.min(12) + 1))),
            4 if random.one_in(8) => bytes.truncate(at),
            5 => bytes.insert(at, random.next() as u8),
            _ => {
                let copied = bytes[at..at + random.below(rest.min(40) + 1)].to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, copied));
            }
        }
    }
    bytes
}

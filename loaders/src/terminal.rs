//! Untrusted text made safe to print.
//!
//! A tensor's name, a key, a prompt or a file's name may hold escape sequences that move the cursor, write
//! the clipboard (OSC 52) or reverse the reading order. Every message of this crate passes through here.

use std::fmt::Write;

/// How many characters of a name a message shows.
const MAX_CHARS: usize = 200;

/// `text` with control, bidirectional and line-breaking characters written as `\u{..}`, cut at 200 characters.
///
/// What it returns passes through unchanged a second time unless it is cut.
pub fn escaped(text: &str) -> String {
    escaped_within(text, MAX_CHARS)
}

/// [`escaped`], cut at `max_chars` characters of the input.
pub(crate) fn escaped_within(text: &str, max_chars: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(max_chars));
    for (idx, c) in text.chars().enumerate() {
        if idx == max_chars {
            safe.push('\u{2026}');
            break;
        }
        if is_unsafe(c) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// C0, DEL, C1, line and paragraph separators, and the characters that change the reading order.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidirectional_characters_are_spelled_out() {
        assert_eq!(escaped("a\u{1b}]52;c\u{7}b"), "a\\u{1b}]52;c\\u{7}b");
        assert_eq!(escaped("\r\n\t\u{7f}\u{9b}"), "\\u{d}\\u{a}\\u{9}\\u{7f}\\u{9b}");
        assert_eq!(escaped("x\u{202e}gnp\u{2066}\u{2028}"), "x\\u{202e}gnp\\u{2066}\\u{2028}");
    }

    #[test]
    fn printable_text_is_left_alone() {
        assert_eq!(escaped("down_blocks.0 猫 é C:\\a"), "down_blocks.0 猫 é C:\\a");
    }

    #[test]
    fn long_text_is_cut_at_200_characters() {
        assert_eq!(escaped(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(escaped(&"é".repeat(201)), format!("{}…", "é".repeat(200)));
    }

    #[test]
    fn every_unsafe_character_is_spelled_out_and_no_other() {
        let expected: Vec<u32> = (0..0x20)
            .chain(0x7f..0xa0)
            // Marks of Arabic letters, left to right and right to left.
            .chain([0x61c, 0x200e, 0x200f])
            // Separators of lines and paragraphs; embeddings, overrides and isolates.
            .chain([0x2028, 0x2029, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069])
            .collect();
        let spelled = |c: &u32| {
            let text = char::from_u32(*c).map(String::from).unwrap_or_default();
            escaped(&text) != text
        };
        assert_eq!((0..=0x10_ffff).filter(spelled).collect::<Vec<_>>(), expected);
        assert_eq!(escaped("\u{61c}\u{200e}\u{200f}"), "\\u{61c}\\u{200e}\\u{200f}");
    }
}

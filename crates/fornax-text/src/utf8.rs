//! Bytes that arrive in pieces, handed on as whole characters.
//!
//! The concatenation of what comes out is what [`String::from_utf8_lossy`] makes of all the bytes together.

/// Holds back at most the three bytes of an unfinished character.
#[derive(Clone, Debug, Default)]
pub(crate) struct Utf8Stream {
    tail: Vec<u8>,
}

impl Utf8Stream {
    /// Appends to `out` every character that `bytes` completes; a byte that no character can contain
    /// becomes U+FFFD.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.tail.extend_from_slice(bytes);
        let mut start = 0;
        loop {
            let rest = &self.tail[start..];
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    out.push_str(valid);
                    start = self.tail.len();
                    break;
                }
                Err(error) => {
                    // The prefix up to `valid_up_to` is valid by that method's contract.
                    out.push_str(&String::from_utf8_lossy(&rest[..error.valid_up_to()]));
                    start += error.valid_up_to();
                    let Some(broken) = error.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    start += broken;
                }
            }
        }
        self.tail.drain(..start);
    }

    /// Ends the bytes: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.tail.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_what_the_whole_gives() {
        // Every sequence of up to five bytes over an alphabet with each role a byte can have in UTF-8.
        let alphabet = [b'a', 0x80, 0xBF, 0xC3, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xFF];
        for length in 0..=5u32 {
            for code in 0..10usize.pow(length) {
                let bytes: Vec<u8> = (0..length).map(|i| alphabet[code / 10usize.pow(i) % 10]).collect();
                let (mut stream, mut out) = (Utf8Stream::default(), String::new());
                for byte in &bytes {
                    stream.push(&[*byte], &mut out);
                    assert!(stream.tail.len() <= 3);
                }
                stream.finish(&mut out);
                assert_eq!(out, String::from_utf8_lossy(&bytes), "{bytes:x?}");
            }
        }
    }
}

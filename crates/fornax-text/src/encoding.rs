//! The result of encoding: ids with offsets and masks, alone or as a padded batch.
//!
//! Plain data; it knows neither tensors nor devices.

use crate::{Result, TextError};
use std::ops::Range;

/// One encoded text. All vectors have the same length, one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The segment of each token: 0 for the first text, 1 for the second of a pair.
    pub type_ids: Vec<u32>,
    /// The bytes of the text that each token stands for; `0..0` for tokens that were added.
    /// In a pair the offsets of the second text count from that text's own start.
    pub offsets: Vec<Range<usize>>,
    /// 1 for a token that was added around the text (such as `[CLS]`), 0 for a token of the text.
    pub special_tokens_mask: Vec<u8>,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Vec<u8>,
}

impl Encoding {
    /// The number of tokens, padding included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn push(&mut self, id: u32, offsets: Range<usize>, special: bool) {
        self.ids.push(id);
        self.type_ids.push(0);
        self.offsets.push(offsets);
        self.special_tokens_mask.push(u8::from(special));
        self.attention_mask.push(1);
    }

    /// Shortens the text, or the longer text of a pair, until at most `max_length` tokens are left.
    /// The tokens that were added around the text all stay.
    pub(crate) fn truncate(&mut self, max_length: usize) -> Result<()> {
        if self.len() <= max_length {
            return Ok(());
        }
        let runs = self.text_runs();
        let text: usize = runs.iter().map(ExactSizeIterator::len).sum();
        let added = self.len() - text;
        if added >= max_length && text > 0 || added > max_length {
            return Err(TextError::MaxLength { found: max_length, needed: added });
        }
        let keep = room(&runs.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), max_length - added);
        let mut drop = vec![false; self.len()];
        for (run, keep) in runs.iter().zip(keep) {
            drop[run.start + keep..run.end].fill(true);
        }
        fn retain<T>(values: &mut Vec<T>, drop: &[bool]) {
            let mut flags = drop.iter();
            // `drop` was made with the length that every vector of an encoding has.
            values.retain(|_| !flags.next().copied().unwrap_or(false));
        }
        retain(&mut self.ids, &drop);
        retain(&mut self.type_ids, &drop);
        retain(&mut self.offsets, &drop);
        retain(&mut self.special_tokens_mask, &drop);
        retain(&mut self.attention_mask, &drop);
        Ok(())
    }

    /// Where the texts lie between the added tokens.
    fn text_runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (i, &special) in self.special_tokens_mask.iter().enumerate() {
            let segment_changes = i > 0 && self.type_ids[i] != self.type_ids[i - 1];
            match runs.last_mut() {
                _ if special != 0 => {}
                Some(run) if run.end == i && !segment_changes => run.end = i + 1,
                _ => runs.push(i..i + 1),
            }
        }
        runs
    }
}

/// How many tokens each text keeps when only `room` fit: of a pair the longer text is cut first, as
/// transformers' `longest_first` does it, and where both must be cut the odd token stays with the longer one.
fn room(lengths: &[usize], room: usize) -> Vec<usize> {
    let &[first, second] = lengths else {
        let mut left = room;
        let take = |&length: &usize| {
            let keep = length.min(left);
            left -= keep;
            keep
        };
        return lengths.iter().map(take).collect();
    };
    let (short, long) = (first.min(second), first.max(second));
    let (short, long) =
        if short + short.min(long) <= room { (short, (room - short).min(long)) } else { (room / 2, room - room / 2) };
    if first > second { vec![long, short] } else { vec![short, long] }
}

/// How a batch is brought to one length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Every text keeps its own length.
    None,
    /// To the longest text of the batch.
    #[default]
    Longest,
    /// To this number of tokens; longer texts keep their length.
    Fixed(usize),
}

/// On which side of the text the padding stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingSide {
    /// After the text, as encoders such as BERT want it.
    #[default]
    Right,
    /// Before the text, as generation with a decoder wants it.
    Left,
}

/// Options of [`Tokenizer::encode_batch`](crate::Tokenizer::encode_batch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Whether tokens such as `[CLS]` are added around each text.
    pub add_special_tokens: bool,
    /// The largest number of tokens a text may have, special ones included; the rest is cut off.
    pub max_length: Option<usize>,
    /// The common length.
    pub padding: Padding,
    /// Where the padding goes.
    pub padding_side: PaddingSide,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { add_special_tokens: true, max_length: None, padding: Padding::Longest, padding_side: PaddingSide::Right }
    }
}

/// Pads every encoding with `pad_id` to the length that `padding` asks for.
pub(crate) fn pad(encodings: &mut [Encoding], padding: Padding, side: PaddingSide, pad_id: u32) {
    let length = match padding {
        Padding::None => return,
        Padding::Longest => encodings.iter().map(Encoding::len).max().unwrap_or(0),
        Padding::Fixed(length) => length,
    };
    for encoding in encodings {
        let missing = length.saturating_sub(encoding.len());
        let at = if side == PaddingSide::Right { encoding.len() } else { 0 };
        fn insert<T: Clone>(values: &mut Vec<T>, at: usize, value: T, count: usize) {
            values.splice(at..at, std::iter::repeat_n(value, count));
        }
        insert(&mut encoding.ids, at, pad_id, missing);
        insert(&mut encoding.type_ids, at, 0, missing);
        insert(&mut encoding.offsets, at, 0..0, missing);
        insert(&mut encoding.special_tokens_mask, at, 1, missing);
        insert(&mut encoding.attention_mask, at, 0, missing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(a: u32, b: u32) -> Encoding {
        let mut e = Encoding::default();
        e.push(100, 0..0, true);
        (0..a).for_each(|i| e.push(i, 0..1, false));
        e.push(101, 0..0, true);
        (0..b).for_each(|i| e.push(200 + i, 0..1, false));
        e.push(101, 0..0, true);
        e
    }

    #[test]
    fn truncation_cuts_the_longer_text_and_keeps_what_was_added() {
        let mut e = encoding(7, 3);
        e.truncate(9).unwrap();
        assert_eq!(e.ids, [100, 0, 1, 2, 101, 200, 201, 202, 101]);
        e.truncate(8).unwrap();
        assert_eq!(e.ids, [100, 0, 1, 101, 200, 201, 202, 101]);
        e.truncate(7).unwrap();
        assert_eq!(e.ids, [100, 0, 1, 101, 200, 201, 101]);
        assert!(matches!(e.truncate(3), Err(TextError::MaxLength { found: 3, needed: 3 })));
        let mut only_added = encoding(0, 0);
        only_added.truncate(3).unwrap();
        assert_eq!(only_added.len(), 3);
    }

    #[test]
    fn padding_goes_to_the_side_asked_for() {
        let mut batch = [encoding(1, 0), encoding(0, 0)];
        pad(&mut batch, Padding::Longest, PaddingSide::Left, 9);
        assert_eq!(batch[1].ids, [9, 100, 101, 101]);
        assert_eq!(batch[1].attention_mask, [0, 1, 1, 1]);
        pad(&mut batch, Padding::Fixed(5), PaddingSide::Right, 9);
        assert_eq!(batch[0].ids, [100, 0, 101, 101, 9]);
        assert_eq!(batch[0].attention_mask, [1, 1, 1, 1, 0]);
    }
}

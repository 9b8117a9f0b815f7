//! SentencePiece's BPE as llama.cpp runs it: join the neighbours whose union has the highest score.
//!
//! The `tokenizers` crate joins by ranked pairs of tokens instead. That differs where scores are equal (the
//! leftmost pair comes first here) and where a token has a character that is no token itself, so it is done here.

use super::{Tokens, WHAT};
use crate::{Encoding, Result, TextError};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use tokenizers::{NormalizerWrapper, OffsetReferential, OffsetType};

/// An encoder for one vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Spm {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    max_token_len: usize,
    /// The token of each byte.
    bytes: Vec<Option<u32>>,
    unk: Option<u32>,
    space_prefix: bool,
    bos: Option<u32>,
    eos: Option<u32>,
}

/// A stretch of the text that is one token so far.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: usize,
    /// 0 once it was joined to its left neighbour.
    len: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be joined.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left)).then(other.len.cmp(&self.len))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Spm {
    pub(super) fn new(
        tokens: &Tokens,
        scores: &[f32],
        unk: Option<u32>,
        space_prefix: bool,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Self> {
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(TextError::invalid(WHAT, format!("the score of token {id} is not a number")));
        }
        // `+ 0.0` makes -0.0 and 0.0 equal in the total order, as they are for llama.cpp.
        let scores =
            if scores.is_empty() { vec![0.0; tokens.texts.len()] } else { scores.iter().map(|s| s + 0.0).collect() };
        let byte = |byte: u8| {
            let single = byte.is_ascii().then(|| char::from(byte).to_string());
            let fallback = tokens.ids.get(&format!("<0x{byte:02X}>"));
            fallback.or_else(|| tokens.ids.get(&single?)).copied()
        };
        Ok(Self {
            ids: tokens.ids.clone(),
            scores,
            max_token_len: tokens.texts.iter().map(String::len).max().unwrap_or(0),
            bytes: (0..=255).map(byte).collect(),
            unk,
            space_prefix,
            bos,
            eos,
        })
    }

    /// Encodes a text; `hf` finds the special tokens that are written out in it.
    pub fn encode(&self, hf: &tokenizers::Tokenizer, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        let mut encoding = Encoding::default();
        let added = |encoding: &mut Encoding, id: Option<u32>| {
            if let Some(id) = id.filter(|_| add_special_tokens) {
                encoding.push(id, 0..0, true);
            }
        };
        added(&mut encoding, self.bos);
        let pieces = hf.get_added_vocabulary().extract_and_normalize(None::<&NormalizerWrapper>, text);
        let mut after_special = true;
        for (piece, (start, end), token) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            if let Some(tokens) = token {
                tokens.iter().for_each(|token| encoding.push(token.id, start..end, false));
                after_special = true;
            } else if !piece.is_empty() {
                self.encode_piece(piece, start, self.space_prefix && after_special, &mut encoding)?;
                after_special = false;
            }
        }
        added(&mut encoding, self.eos);
        Ok(encoding)
    }

    /// Encodes two texts one after the other, each with its own BOS and EOS.
    pub fn encode_pair(&self, hf: &tokenizers::Tokenizer, first: &str, second: &str, add: bool) -> Result<Encoding> {
        let mut both = self.encode(hf, first, add)?;
        let second = self.encode(hf, second, add)?;
        both.type_ids.extend(vec![1; second.len()]);
        both.ids.extend(second.ids);
        both.offsets.extend(second.offsets);
        both.special_tokens_mask.extend(second.special_tokens_mask);
        both.attention_mask.extend(second.attention_mask);
        Ok(both)
    }

    /// Encodes a text without special tokens, which begins at `base` of the whole.
    fn encode_piece(&self, text: &str, base: usize, prefix: bool, encoding: &mut Encoding) -> Result<()> {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
        if prefix {
            escaped.push('▁');
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { '▁' } else { c }));
        let symbols = self.join(&escaped);

        // Each character of `escaped` but the prefix is one of the text, which tells where the tokens lie in it.
        let mut original = text.chars().map(char::len_utf8);
        let mut at = base;
        let mut prefix = usize::from(prefix);
        let mut next = (!symbols.is_empty()).then_some(0);
        while let Some(i) = next {
            let Symbol { start, len, next: following, .. } = symbols[i];
            next = following;
            let piece = &escaped[start..start + len];
            let from = at;
            let own = piece.chars().count() - prefix;
            prefix = 0;
            at += original.by_ref().take(own).sum::<usize>();
            self.push(piece, from..at, encoding)?;
        }
        Ok(())
    }

    /// Pushes the token of a piece, or the tokens of its bytes.
    fn push(&self, piece: &str, offsets: Range<usize>, encoding: &mut Encoding) -> Result<()> {
        if let Some(&id) = self.ids.get(piece) {
            encoding.push(id, offsets, false);
            return Ok(());
        }
        let bytes: Option<Vec<u32>> = piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        let ids = bytes.or_else(|| Some(vec![self.unk?]));
        let ids = ids.ok_or_else(|| TextError::Encode {
            reason: format!("the vocabulary has neither {piece:?}, nor its bytes, nor an unknown token"),
        })?;
        ids.into_iter().for_each(|id| encoding.push(id, offsets.clone(), false));
        Ok(())
    }

    /// Joins the characters of `text` until no two neighbours make a token. The result is linked by `next` from 0.
    fn join(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (i, (start, c)) in text.char_indices().enumerate() {
            let len = c.len_utf8();
            let next = (start + len < text.len()).then_some(i + 1);
            symbols.push(Symbol { start, len, prev: i.checked_sub(1), next });
        }
        let pair = |symbols: &[Symbol], left: Option<usize>, right: Option<usize>| {
            let (left, right) = (left?, right?);
            let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
            // Hashing a union that is longer than any token would make long texts quadratic.
            if len > self.max_token_len {
                return None;
            }
            let &id = self.ids.get(&text[start..start + len])?;
            Some(Pair { score: self.scores[id as usize], left, right, len })
        };
        let mut heap: BinaryHeap<Pair> =
            (1..symbols.len()).filter_map(|right| pair(&symbols, Some(right - 1), Some(right))).collect();
        while let Some(Pair { left, right, len, .. }) = heap.pop() {
            let (l, r) = (symbols[left], symbols[right]);
            // The entry is stale if either neighbour was joined to something else meanwhile.
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            symbols[left].len = len;
            symbols[left].next = r.next;
            symbols[right].len = 0;
            if let Some(next) = r.next {
                symbols[next].prev = Some(left);
            }
            heap.extend(pair(&symbols, l.prev, Some(left)));
            heap.extend(pair(&symbols, Some(left), r.next));
        }
        symbols
    }

    /// The ranked pairs that come closest to these scores, as transformers makes them for such vocabularies.
    pub fn merges(&self) -> Vec<(&str, &str)> {
        let mut merges: Vec<(f32, u32, usize, &str)> = Vec::new();
        for (token, &id) in &self.ids {
            for (at, _) in token.char_indices().skip(1) {
                let (a, b) = token.split_at(at);
                if self.ids.contains_key(a) && self.ids.contains_key(b) {
                    merges.push((self.scores[id as usize], id, at, token));
                }
            }
        }
        merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        merges.into_iter().map(|(_, _, at, token)| token.split_at(at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{GgufVocab, Tokenizer};

    fn tokenizer(tokens: &[(&str, f32)]) -> Tokenizer {
        let (tokens, scores) = tokens.iter().map(|&(token, score)| (token.to_owned(), score)).unzip();
        Tokenizer::from_gguf(&GgufVocab { model: "llama".into(), tokens, scores, ..Default::default() }).unwrap()
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let ids = tokenizer.encode(text, false).unwrap().ids;
        ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
    }

    #[test]
    fn equal_scores_join_from_the_left() {
        let t = tokenizer(&[
            ("<unk>", 0.0),
            ("<s>", 0.0),
            ("</s>", 0.0),
            ("▁", 0.0),
            ("a", -1.0),
            ("aa", -2.0),
            ("aaa", -2.0),
        ]);
        // llama.cpp's queue prefers the leftmost of equal scores, so the first pair grows before the next is made.
        assert_eq!(encode(&t, "aaaaaa"), ["▁", "aaa", "aaa"]);
    }

    #[test]
    fn a_character_that_is_no_token_can_still_be_joined() {
        let t = tokenizer(&[
            ("<unk>", 0.0),
            ("<s>", 0.0),
            ("</s>", 0.0),
            ("▁", 0.0),
            ("n", -1.0),
            ("né", -2.0),
            ("<0xC3>", 0.0),
            ("<0xA9>", 0.0),
        ]);
        assert_eq!(encode(&t, "née"), ["▁", "né", "<unk>"]);
        assert_eq!(encode(&t, "é"), ["▁", "<0xC3>", "<0xA9>"]);
    }

    #[test]
    fn offsets_point_into_the_text_around_special_tokens() {
        let t = tokenizer(&[
            ("<unk>", 0.0),
            ("<s>", 0.0),
            ("</s>", 0.0),
            ("▁", -9.0),
            ("a", -1.0),
            ("▁a", -2.0),
            ("▁▁", -3.0),
        ]);
        let text = " a▁</s>a  é";
        let encoding = t.encode(text, true).unwrap();
        let parts: Vec<(String, &str)> = encoding
            .ids
            .iter()
            .zip(&encoding.offsets)
            .map(|(&id, r)| (t.id_to_token(id).unwrap(), &text[r.clone()]))
            .collect();
        let expected = [
            ("<s>", ""),
            ("▁", ""),
            ("▁a", " a"),
            ("▁", "▁"),
            ("</s>", "</s>"),
            ("▁a", "a"),
            ("▁▁", "  "),
            ("<unk>", "é"),
        ];
        assert_eq!(parts, expected.map(|(a, b)| (a.to_owned(), b)));
    }

    #[test]
    fn a_long_text_is_not_quadratic() {
        let t = tokenizer(&[
            ("<unk>", 0.0),
            ("<s>", 0.0),
            ("</s>", 0.0),
            ("▁", 0.0),
            ("a", -1.0),
            ("aa", -2.0),
            ("aaaa", -3.0),
        ]);
        assert_eq!(t.encode(&"a".repeat(1 << 20), false).unwrap().len(), 1 + (1 << 18));
    }
}

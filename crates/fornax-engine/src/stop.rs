//! Stop strings over streamed text: which text may be shown already, and where the text ends.
//!
//! It sees text only; a sequence checks stop tokens itself. A stop string may span any number of pieces, and the
//! outcome does not depend on how the text is cut into pieces: the stop string that ends first wins, and of several
//! that end at the same place the longest.

use std::collections::VecDeque;

use crate::sampling::SamplingError;

/// The most stop strings of one request.
const MAX_STOPS: usize = 64;
/// The most bytes of one stop string.
const MAX_STOP_BYTES: usize = 4096;
const ROOT: usize = 0;

/// What one piece of text leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOutput {
    /// Text that is certainly part of the result, to be shown now.
    pub text: String,
    /// Which stop string was met, as its position in the list; the text ends here.
    pub stopped: Option<usize>,
}

/// Watches a stream of text pieces for stop strings.
///
/// It holds back only the longest end of the text that a stop string could begin with, so that nothing shown has to be
/// taken back and nothing safe is kept waiting. Time is linear in the text.
///
/// ```
/// use fornax_engine::stop::StopChecker;
///
/// let mut checker = StopChecker::new(&["\nUser:".to_string()], false)?;
/// assert_eq!(checker.push("Hello.\nUs").text, "Hello.");
/// let end = checker.push("er: and more");
/// assert_eq!((end.text.as_str(), end.stopped), ("", Some(0)));
/// # Ok::<(), fornax_engine::sampling::SamplingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopChecker {
    /// An Aho-Corasick automaton over bytes; empty where there are no stop strings.
    states: Vec<State>,
    lengths: Vec<usize>,
    include_stop: bool,
    state: usize,
    held: String,
    stopped: Option<usize>,
}

/// The longest end of the text that is a beginning of some stop string.
#[derive(Debug, Clone, Default)]
struct State {
    /// How many bytes that is.
    depth: usize,
    next: Vec<(u8, usize)>,
    /// The state of the next shorter such end.
    fallback: usize,
    /// The longest stop string that ends here.
    stop: Option<usize>,
}

impl StopChecker {
    /// Watches for `stops`; `include_stop` leaves the stop string at the end of the text instead of cutting it.
    ///
    /// # Errors
    /// [`SamplingError::EmptyStop`], and [`SamplingError::OutOfRange`] for more than 64 strings or one longer than
    /// 4,096 bytes.
    pub fn new(stops: &[String], include_stop: bool) -> Result<Self, SamplingError> {
        validate(stops)?;
        Ok(Self {
            states: automaton(stops),
            lengths: stops.iter().map(String::len).collect(),
            include_stop,
            state: ROOT,
            held: String::new(),
            stopped: None,
        })
    }

    /// Takes the next piece of text. Once a stop string was met, further pieces are dropped.
    pub fn push(&mut self, piece: &str) -> StopOutput {
        if self.stopped.is_some() {
            return self.output(String::new());
        }
        let before = self.held.len();
        self.held.push_str(piece);
        if self.lengths.is_empty() {
            let text = std::mem::take(&mut self.held);
            return self.output(text);
        }
        for (offset, byte) in piece.bytes().enumerate() {
            self.state = self.step(byte);
            if let Some(stop) = self.states[self.state].stop {
                let end = before + offset + 1;
                let keep = if self.include_stop { end } else { end - self.lengths[stop] };
                self.held.truncate(keep);
                self.stopped = Some(stop);
                let text = std::mem::take(&mut self.held);
                return self.output(text);
            }
        }
        // What is held back begins as a stop string does, so that the cut lies between characters.
        let safe = self.held.len() - self.states[self.state].depth;
        let text = self.held.drain(..safe).collect();
        self.output(text)
    }

    /// The text held back, once no more will come; empty after a stop.
    pub fn finish(&mut self) -> String {
        self.state = ROOT;
        std::mem::take(&mut self.held)
    }

    /// Which stop string was met, as its position in the list.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    fn output(&self, text: String) -> StopOutput {
        StopOutput { text, stopped: self.stopped }
    }

    fn step(&self, byte: u8) -> usize {
        let mut from = self.state;
        loop {
            match (find(&self.states[from].next, byte), from) {
                (Some(next), _) => return next,
                (None, ROOT) => return ROOT,
                (None, _) => from = self.states[from].fallback,
            }
        }
    }
}

/// Refuses lists that no checker takes.
pub(crate) fn validate(stops: &[String]) -> Result<(), SamplingError> {
    crate::sampling::within("the number of stop strings", stops.len(), 0..=MAX_STOPS)?;
    for (index, stop) in stops.iter().enumerate() {
        if stop.is_empty() {
            return Err(SamplingError::EmptyStop { index });
        }
        crate::sampling::within("the length of a stop string in bytes", stop.len(), 1..=MAX_STOP_BYTES)?;
    }
    Ok(())
}

fn automaton(stops: &[String]) -> Vec<State> {
    let mut states = vec![State::default()];
    for (index, stop) in stops.iter().enumerate() {
        let mut at = ROOT;
        for (depth, byte) in (1..).zip(stop.bytes()) {
            at = match find(&states[at].next, byte) {
                Some(next) => next,
                None => {
                    let next = states.len();
                    states[at].next.push((byte, next));
                    states.push(State { depth, ..State::default() });
                    next
                }
            };
        }
        states[at].stop.get_or_insert(index);
    }
    // Breadth first, so that the shorter ends a state falls back to are finished before it.
    let mut queue: VecDeque<usize> = states[ROOT].next.iter().map(|&(_, next)| next).collect();
    while let Some(at) = queue.pop_front() {
        let fallback = states[at].fallback;
        states[at].stop = states[at].stop.or(states[fallback].stop);
        for index in 0..states[at].next.len() {
            let (byte, next) = states[at].next[index];
            let mut from = fallback;
            states[next].fallback = loop {
                match (find(&states[from].next, byte), from) {
                    (Some(found), _) => break found,
                    (None, ROOT) => break ROOT,
                    (None, _) => from = states[from].fallback,
                }
            };
            queue.push_back(next);
        }
    }
    states
}

fn find(next: &[(u8, usize)], byte: u8) -> Option<usize> {
    next.iter().find(|(label, _)| *label == byte).map(|&(_, state)| state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    fn checker(stops: &[&str], include_stop: bool) -> StopChecker {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        StopChecker::new(&stops, include_stop).unwrap()
    }

    /// The definition, by trying every end of the text: the kept length, the stop, and where it ended.
    fn naive(text: &str, stops: &[&str]) -> Option<(usize, usize, usize)> {
        (1..=text.len()).find_map(|end| {
            let ending = (0..stops.len()).filter(|&i| text.as_bytes()[..end].ends_with(stops[i].as_bytes()));
            let longest = ending.max_by_key(|&i| (stops[i].len(), std::cmp::Reverse(i)))?;
            Some((end - stops[longest].len(), longest, end))
        })
    }

    /// The longest end of `text` that is a proper beginning of a stop string.
    fn pending(text: &str, stops: &[&str]) -> usize {
        (0..=text.len())
            .rev()
            .find(|&len| {
                let end = &text.as_bytes()[text.len() - len..];
                len == 0 || stops.iter().any(|stop| stop.len() > len && stop.as_bytes().starts_with(end))
            })
            .unwrap_or_default()
    }

    #[test]
    fn agrees_with_the_definition_however_the_text_is_cut() {
        let alphabet = ["a", "b", "é", "日", "\n", "🙂"];
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut below = |n: usize| (rng.next_u32() as usize) % n;
        let mut stopped = 0;
        for round in 0..5_000 {
            let letters = 2 + below(alphabet.len() - 1);
            let mut word = |len: usize| -> String { (0..len).map(|_| alphabet[below(letters)]).collect() };
            let owned: Vec<String> = (0..1 + round % 4).map(|i| word(1 + (round / 7 + i) % 4)).collect();
            let stops: Vec<&str> = owned.iter().map(String::as_str).collect();
            let text = word(round % 40);
            let include_stop = round % 2 == 0;
            let mut checker = checker(&stops, include_stop);
            let expected = naive(&text, &stops);

            let mut shown = String::new();
            let mut taken = String::new();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let chars = below(4);
                let cut = rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at);
                let output = checker.push(&rest[..cut]);
                taken.push_str(&rest[..cut]);
                shown.push_str(&output.text);
                rest = &rest[cut..];
                if output.stopped.is_none() {
                    let held = taken.len() - shown.len();
                    assert_eq!(held, pending(&taken, &stops), "{taken:?} with {stops:?}");
                } else {
                    assert!(expected.is_some_and(|(_, _, end)| end <= taken.len()));
                }
            }
            shown.push_str(&checker.finish());
            match expected {
                Some((kept, stop, end)) => {
                    stopped += 1;
                    assert_eq!(shown, text[..if include_stop { end } else { kept }]);
                    assert_eq!(checker.stopped(), Some(stop), "{text:?} with {stops:?}");
                }
                None => {
                    assert_eq!(shown, text);
                    assert_eq!(checker.stopped(), None);
                }
            }
        }
        assert!((1_000..4_900).contains(&stopped), "both outcomes must be common: {stopped}");
    }

    #[test]
    fn a_false_start_is_given_out_again() {
        let mut checker = checker(&["</s>"], false);
        assert_eq!(checker.push("x</").text, "x");
        assert_eq!(checker.push("<").text, "</");
        assert_eq!(checker.push("/s").text, "");
        assert_eq!(checker.finish(), "</s");
    }

    #[test]
    fn nothing_follows_a_stop() {
        let mut checker = checker(&["."], true);
        assert_eq!(checker.push("One. Two").text, "One.");
        let after = checker.push("Three");
        assert_eq!((after.text.as_str(), after.stopped), ("", Some(0)));
        assert_eq!(checker.finish(), "");
    }

    #[test]
    fn without_stop_strings_text_passes_at_once() {
        let mut checker = checker(&[], false);
        assert_eq!(checker.push("abc").text, "abc");
        assert_eq!(checker.finish(), "");
    }

    #[test]
    fn unusable_stop_strings_are_refused() {
        let error = StopChecker::new(&["a".into(), String::new()], false).unwrap_err();
        assert_eq!(error, SamplingError::EmptyStop { index: 1 });
        assert!(StopChecker::new(&vec!["a".to_string(); 65], false).is_err());
        assert!(StopChecker::new(&["a".repeat(4097)], false).is_err());
        StopChecker::new(&vec!["a".repeat(4096); 64], false).unwrap();
    }
}

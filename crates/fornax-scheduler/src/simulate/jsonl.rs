//! Traces from outside: a request a line, as JSON.
//!
//! A line is `{"arrival": 0.5, "prompt": 200, "output": 50}`; [`Scenario::read_trace`](super::Scenario::read_trace)
//! describes the optional keys. Traces with the keys of Mooncake (`timestamp`, `input_length`, `output_length`,
//! `hash_ids`) are read as they are. Lines come in order of time and end in LF or CRLF, which the last line may lack.
//! Empty lines and a byte order mark at the beginning are skipped.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::format::{Name, TimeUnit, TraceFormat};
use super::trace::{MOST_REQUESTS, MOST_TOKENS, Trace};
use super::{Class, TraceRequest};
use crate::random::mix;
use crate::{SchedulerError, TenantId, Time};

/// A line of a trace.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    arrival: Option<f64>,
    timestamp: Option<f64>,
    prompt: Option<u32>,
    input_length: Option<u32>,
    output: Option<u32>,
    output_length: Option<u32>,
    max_tokens: Option<u32>,
    class: Option<String>,
    tenant: Option<Name>,
    priority: Option<i32>,
    deadline: Option<f64>,
    cancel: Option<f64>,
    n: Option<u32>,
    adapter: Option<Name>,
    #[serde(default)]
    prefix_group: u64,
    #[serde(default)]
    prefix: u32,
    hash_ids: Option<Vec<u64>>,
}

/// An error message repeats at most this many characters of each end of a text.
const EXCERPT: usize = 160;
/// A trace of whole numbers up to here is taken to be in seconds; a longer one needs a unit.
const PLAIN_SECONDS: f64 = 1000.0;
/// The most continuations of a prompt.
const MOST_SEQUENCES: u32 = 10_000;

/// Names and the numbers they get: the numbers after the largest number in use.
#[derive(Default)]
struct Names {
    next: u32,
    words: BTreeMap<String, u32>,
    order: Vec<String>,
}

impl Names {
    /// A number as it is, or the place of a name.
    fn note(&mut self, name: &Name) -> Noted {
        match name {
            Name::Number(number) => {
                self.next = self.next.max(number + 1);
                Noted::Number(*number)
            }
            Name::Words(words) => {
                let place = *self.words.entry(words.clone()).or_insert_with(|| {
                    self.order.push(words.clone());
                    self.order.len() as u32 - 1
                });
                Noted::Place(place)
            }
        }
    }

    fn number(&self, noted: Noted) -> u32 {
        match noted {
            Noted::Number(number) => number,
            Noted::Place(place) => self.next + place,
        }
    }
}

#[derive(Clone, Copy)]
enum Noted {
    Number(u32),
    Place(u32),
}

/// Reads a trace line by line.
struct Reader<'a> {
    classes: &'a [Class],
    format: TraceFormat,
    tenants: Names,
    adapters: Names,
    requests: Vec<TraceRequest>,
    /// The tenant and the adapter of each request, which get their numbers when all names are known.
    named: Vec<(Noted, Option<Noted>)>,
    /// Whether every arrival so far was a whole number without a unit.
    whole: bool,
}

/// Reads the trace `bytes` for requests of `classes`.
pub(super) fn read(bytes: &[u8], classes: &[Class], format: TraceFormat) -> Result<Trace, SchedulerError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let declared = classes.iter().map(|class| class.tenant + class.tenants).max().unwrap_or(0);
    let mut reader = Reader {
        classes,
        format,
        tenants: Names { next: declared, ..Names::default() },
        adapters: Names::default(),
        requests: Vec::new(),
        named: Vec::new(),
        whole: true,
    };
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        reader.line(line, at as u64).map_err(|reason| SchedulerError::Scenario {
            place: format!("line {} of the trace", at + 1),
            reason: shortened(&reason),
        })?;
    }
    reader.finish().map_err(|reason| SchedulerError::Scenario { place: "the trace".into(), reason })
}

impl Reader<'_> {
    fn line(&mut self, line: &[u8], at: u64) -> Result<(), String> {
        let line = std::str::from_utf8(line).map_err(|error| format!("it is not UTF-8 text: {error}"))?;
        if line.trim().is_empty() {
            return Ok(());
        }
        let entry: Entry = serde_json::from_str(line).map_err(|error| {
            // Each line is a text of its own, so that the line in serde's message is always 1.
            let words = error.to_string().replace(" at line 1 column ", " at column ");
            format!("{words}; expected {EXPECTED}")
        })?;
        let request = self.request(&entry, at)?;
        if self.requests.last().is_some_and(|last| last.arrival > request.arrival) {
            let field = if entry.timestamp.is_some() { "timestamp" } else { "arrival" };
            return Err(format!("{field}: it is before that of the line above; sort the lines by {field}"));
        }
        if self.requests.len() as u64 >= MOST_REQUESTS {
            return Err("there are more than 100 million requests; give fewer".into());
        }
        self.requests.push(request);
        Ok(())
    }

    /// The request of an entry, or an error message.
    fn request(&mut self, entry: &Entry, at: u64) -> Result<TraceRequest, String> {
        let (arrival, unit) = self.arrival(entry)?;
        let (prompt_field, prompt) = either("prompt", entry.prompt, "input_length", entry.input_length)?;
        let (output_field, output) = either("output", entry.output, "output_length", entry.output_length)?;
        if !(1..=MOST_TOKENS).contains(&prompt) {
            return Err(format!("{prompt_field}: found {prompt}, expected 1 to {MOST_TOKENS} tokens"));
        }
        if output > MOST_TOKENS {
            return Err(format!("{output_field}: found {output}, expected 0 to {MOST_TOKENS} tokens"));
        }
        if let Some(most) = entry.max_tokens.filter(|&most| most < output || most > MOST_TOKENS) {
            return Err(format!(
                "max_tokens: found {most}, expected at least the {output} tokens that were put out, at most {MOST_TOKENS}"
            ));
        }
        let n = entry.n.unwrap_or(1);
        if !(1..=MOST_SEQUENCES).contains(&n) {
            return Err(format!("n: found {n}, expected 1 to {MOST_SEQUENCES} continuations"));
        }
        let after = |field: &str, value: Option<f64>, least: f64| match value.map(|value| value * unit) {
            Some(seconds) if !(least..=1e9).contains(&seconds) => {
                let found = value.unwrap_or_default();
                Err(format!("{field}: found {found}, expected a time after the arrival, up to 1e9 seconds"))
            }
            seconds => Ok(seconds),
        };
        let (deadline, cancel) = (after("deadline", entry.deadline, 1e-6)?, after("cancel", entry.cancel, 0.0)?);
        let class = self.class(entry)?;
        let tenant = entry.tenant.clone().unwrap_or(Name::Number(self.classes[class].tenant));
        self.named.push((self.tenants.note(&tenant), entry.adapter.as_ref().map(|name| self.adapters.note(name))));
        Ok(TraceRequest {
            arrival: Time::from_secs_f64(arrival),
            class: class as u16,
            new_tokens: output,
            max_tokens: entry.max_tokens,
            priority: entry.priority,
            deadline,
            cancel,
            sequences: n,
            ..self.prompt(entry, prompt_field, prompt, at)?
        })
    }

    /// The arrival of an entry in seconds, and the unit of its times in seconds.
    fn arrival(&mut self, entry: &Entry) -> Result<(f64, f64), String> {
        let (field, time) = either("arrival", entry.arrival, "timestamp", entry.timestamp)?;
        let whole = time.fract() == 0.0;
        let usual = if field == "timestamp" { TimeUnit::Milliseconds } else { TimeUnit::Seconds };
        self.whole &= whole && field == "arrival" && self.format.time_unit.is_none();
        if field == "timestamp" && !whole && self.format.time_unit.is_none() {
            return Err(format!(
                "timestamp: found {time}, expected whole milliseconds as in Mooncake's traces; name its unit by \
                 trace = {{ time_unit = \"s\" }} in the scenario (s, ms or us)"
            ));
        }
        let unit = self.format.time_unit.unwrap_or(usual).seconds();
        let seconds = time * unit;
        if !(0.0..=1e9).contains(&seconds) {
            return Err(format!("{field}: found {time}, expected a time from the start, from 0 to 1e9 seconds"));
        }
        Ok((seconds, unit))
    }

    fn class(&self, entry: &Entry) -> Result<usize, String> {
        let classes = self.classes;
        match (&entry.class, &entry.tenant) {
            (Some(name), _) => {
                let known = || classes.iter().map(|class| class.name.as_str()).collect::<Vec<&str>>().join(", ");
                let place = classes.iter().position(|class| class.name == *name);
                place.ok_or_else(|| format!("class: found {:?}, expected one of {}", shortened(name), known()))
            }
            // Without a class, the first that has the tenant.
            (None, &Some(Name::Number(tenant))) => {
                let has = |class: &Class| (class.tenant..class.tenant + class.tenants).contains(&tenant);
                Ok(classes.iter().position(has).unwrap_or(0))
            }
            (None, _) => Ok(0),
        }
    }

    /// A request with the prompt of an entry, and defaults for all else.
    fn prompt(&self, entry: &Entry, field: &str, prompt: u32, at: u64) -> Result<TraceRequest, String> {
        let own = TraceRequest { body_stream: mix(!at), ..TraceRequest::default() };
        let Some(ids) = &entry.hash_ids else {
            if entry.prefix >= prompt {
                let found = entry.prefix;
                return Err(format!(
                    "prefix: found {found}, expected fewer than the prompt's {prompt} tokens, of which it is a part"
                ));
            }
            let prefix_stream = mix(entry.prefix_group.wrapping_add(1));
            return Ok(TraceRequest { prefix_stream, prefix: entry.prefix, body: prompt - entry.prefix, ..own });
        };
        if entry.prefix > 0 || entry.prefix_group > 0 {
            return Err("hash_ids: they say what the prompt begins with; leave out prefix and prefix_group".into());
        }
        let size = self.format.block_size.unwrap_or(MOONCAKE_BLOCK);
        let (full, all) = (prompt / size, prompt.div_ceil(size));
        let found = ids.len();
        if found != full as usize && found != all as usize {
            let expected = if full == all { all.to_string() } else { format!("{full} or {all}") };
            return Err(format!(
                "hash_ids: found {found} for the {prompt} tokens of {field}, expected {expected}, one for each {size}; if they \
                 stand for another number of tokens, give trace = {{ block_size = ... }} in the scenario"
            ));
        }
        let prefix = if found == all as usize { prompt } else { full * size };
        // These streams differ from the streams of groups and of bodies.
        let blocks = ids.iter().map(|&id| mix(mix(id) ^ BLOCKS)).collect();
        Ok(TraceRequest { blocks, block_tokens: size, prefix, body: prompt - prefix, ..own })
    }

    /// Numbers the names, and gives the longest output of the trace as a limit to requests that have no limit
    /// themselves or by their class.
    fn finish(mut self) -> Result<Trace, String> {
        let Some(last) = self.requests.last() else {
            return Err("there is no request in it; expected one a line, as JSON".into());
        };
        let last = last.arrival.as_secs_f64();
        if self.whole && last >= PLAIN_SECONDS {
            return Err(format!(
                "every arrival is a whole number, up to {last}, as of milliseconds; name their unit by \
                 trace = {{ time_unit = \"ms\" }} in the scenario (s, ms or us)"
            ));
        }
        if self.tenants.next as usize + self.tenants.order.len() > TenantId::MOST as usize {
            return Err("it has more than a million tenants; give fewer".into());
        }
        let longest = self.requests.iter().map(|request| request.new_tokens).max().unwrap_or(1);
        for (request, (tenant, adapter)) in self.requests.iter_mut().zip(&self.named) {
            request.tenant = self.tenants.number(*tenant);
            request.adapter = adapter.map(|adapter| self.adapters.number(adapter));
            if self.classes[usize::from(request.class)].max_tokens.is_none() {
                request.max_tokens.get_or_insert(longest.max(1));
            }
        }
        let next = self.tenants.next;
        let tenants = self.tenants.order.into_iter().enumerate();
        Ok(Trace {
            requests: self.requests,
            tenants: tenants.map(|(place, name)| (next + place as u32, name)).collect(),
        })
    }
}

/// The form of a line, for error messages.
const EXPECTED: &str = "{\"arrival\": seconds, \"prompt\": tokens, \"output\": tokens}";
/// How many tokens a hash id stands for in Mooncake's traces.
const MOONCAKE_BLOCK: u32 = 512;
/// Sets the streams of blocks apart from all other streams.
const BLOCKS: u64 = 0x6b76_626c_6f63_6b73;

/// The name and the value of a field that has two names; a line has to give exactly one of them.
fn either<T: Copy>(
    one: &'static str,
    first: Option<T>,
    other: &'static str,
    second: Option<T>,
) -> Result<(&'static str, T), String> {
    match (first, second) {
        (Some(value), None) => Ok((one, value)),
        (None, Some(value)) => Ok((other, value)),
        (None, None) => Err(format!("missing field `{one}`; expected {EXPECTED}")),
        (Some(_), Some(_)) => Err(format!("{one} and {other} are two names of the same; give one of them")),
    }
}

/// A text for an error message: without control characters, and cut to its beginning and end if it is long.
pub(super) fn shortened(words: &str) -> String {
    cut(words, EXCERPT)
}

/// The same with at most `excerpt` characters of the beginning and of the end.
pub(super) fn cut(words: &str, excerpt: usize) -> String {
    let plain = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    if words.chars().nth(2 * excerpt).is_none() {
        return words.chars().map(plain).collect();
    }
    let mut end: Vec<char> = words.chars().rev().take(excerpt).collect();
    end.reverse();
    words.chars().take(excerpt).chain(" … ".chars()).chain(end).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<Class> {
        let class = |name: &str, tenant| Class { name: name.into(), tenant, ..Class::default() };
        vec![class("first", 4), class("second", 7)]
    }

    fn read(trace: &[u8], classes: &[Class]) -> Result<Vec<TraceRequest>, SchedulerError> {
        super::read(trace, classes, TraceFormat::default()).map(|trace| trace.requests)
    }

    fn error(trace: &[u8]) -> String {
        read(trace, &classes()).expect_err("it is refused").to_string()
    }

    #[test]
    fn lines_may_end_and_begin_as_files_do() {
        let line = r#"{"arrival": 0.5, "prompt": 20, "output": 5}"#;
        let plain = read(line.as_bytes(), &classes()).expect("a line");
        assert_eq!((plain.len(), plain[0].prompt_tokens(), plain[0].new_tokens, plain[0].tenant), (1, 20, 5, 4));
        for text in [format!("{line}\n"), format!("{line}\r\n"), format!("\u{feff}{line}"), format!("{line}\n\n \r\n")]
        {
            assert_eq!(read(text.as_bytes(), &classes()), Ok(plain.clone()), "{text:?}");
        }
        let two =
            format!("{line}\r\n{}", r#"{"arrival": 0.5, "prompt": 9, "output": 1, "class": "second", "prefix": 8}"#);
        let two = read(two.as_bytes(), &classes()).expect("two lines");
        assert_eq!((two[1].class, two[1].tenant, two[1].prefix, two[1].body), (1, 7, 8, 1));
        let by_tenant = read(br#"{"arrival": 0, "prompt": 9, "output": 1, "tenant": 7}"#, &classes()).expect("a line");
        assert_eq!((by_tenant[0].class, by_tenant[0].tenant), (1, 7));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_field() {
        let good = r#"{"arrival": 1.5, "prompt": 20, "output": 5}"#;
        for (line, words) in [
            (r#"{"prompt": 20, "output": 5}"#, &["missing field `arrival`"][..]),
            (r#"{"arrival": 2, "prompt": 20}"#, &["missing field `output`"]),
            (r#"{"arrival": 2, "prompt": -20, "output": 5}"#, &["-20", "u32", "column"]),
            (r#"{"arrival": 2, "prompt": 20.5, "output": 5}"#, &["20.5"]),
            (r#"{"arrival": 2, "prompt": 1e300, "output": 5}"#, &["u32"]),
            (r#"{"arrival": 1e999, "prompt": 20, "output": 5}"#, &["number out of range"]),
            (r#"{"arrival": NaN, "prompt": 20, "output": 5}"#, &["expected"]),
            (r#"{"arrival": -1, "prompt": 20, "output": 5}"#, &["arrival: found -1", "0 to 1e9 seconds"]),
            (r#"{"arrival": 1700000000, "prompt": 20, "output": 5}"#, &["arrival: found 1700000000", "from the start"]),
            (r#"{"arrival": 2, "timestamp": 2, "prompt": 20, "output": 5}"#, &["arrival and timestamp"]),
            (
                r#"{"timestamp": 0.25, "prompt": 20, "output": 5}"#,
                &["timestamp: found 0.25", "milliseconds", "time_unit"],
            ),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "max_tokens": 4}"#, &["max_tokens: found 4", "the 5 tokens"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "n": 0}"#, &["n: found 0"]),
            (
                r#"{"arrival": 2, "prompt": 20, "output": 5, "deadline": 0}"#,
                &["deadline: found 0", "after the arrival"],
            ),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "cancel": -1}"#, &["cancel: found -1"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "tenant": -5}"#, &["-5", "a number below 2^20 or a name"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "tenant": ""}"#, &["a number below 2^20 or a name"]),
            (
                r#"{"arrival": 2, "prompt": 20, "output": 5, "hash_ids": [1, 2]}"#,
                &["hash_ids: found 2", "0 or 1", "512"],
            ),
            (
                r#"{"arrival": 2, "prompt": 20, "output": 5, "hash_ids": [1], "prefix": 4}"#,
                &["hash_ids", "leave out prefix"],
            ),
            (r#"{"arrival": 1.4, "prompt": 20, "output": 5}"#, &["arrival", "before that of the line above"]),
            (r#"{"arrival": 2, "prompt": 0, "output": 5}"#, &["prompt: found 0"]),
            (r#"{"arrival": 2, "prompt": 4294967295, "output": 5}"#, &["prompt: found 4294967295", "16777216"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "prefix": 20}"#, &["prefix: found 20", "20 tokens"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "class": "third"}"#, &["third", "first, second"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "colour": 5}"#, &["colour", "prefix_group"]),
            (r#"{"arrival": 2, "arrival": 3, "prompt": 20, "output": 5}"#, &["duplicate field `arrival`"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5} x"#, &["trailing"]),
            ("[1, 2]", &["expected"]),
            ("garbage", &["expected", "\"prompt\": tokens"]),
        ] {
            let error = error(format!("{good}\n\n{line}\n").as_bytes());
            assert!(error.starts_with("line 3 of the trace: "), "{line}: {error}");
            words.iter().for_each(|words| assert!(error.contains(words), "{line}: no {words:?} in {error}"));
        }
    }

    #[test]
    fn the_key_names_of_mooncake_are_read_as_they_are_meant() {
        let line = |at: u32, input: u32, ids: &str| {
            format!(r#"{{"timestamp": {at}, "input_length": {input}, "output_length": 7, "hash_ids": [{ids}]}}"#)
        };
        let text = [line(0, 1200, "1, 2, 3"), line(1500, 1100, "1, 2, 9"), line(90_000, 1024, "1, 8")].join("\n");
        let requests = read(text.as_bytes(), &classes()).expect("three lines");
        let arrivals: Vec<f64> = requests.iter().map(|request| request.arrival.as_secs_f64()).collect();
        assert_eq!(arrivals, [0.0, 1.5, 90.0]);
        let prompts: Vec<Vec<u32>> = requests.iter().map(TraceRequest::prompt).collect();
        assert_eq!(prompts.iter().map(Vec::len).collect::<Vec<usize>>(), [1200, 1100, 1024]);
        let alike = |one: usize, two: usize| prompts[one].iter().zip(&prompts[two]).take_while(|(a, b)| a == b).count();
        assert_eq!((alike(0, 1), alike(0, 2), alike(1, 2)), (1024, 512, 512));
        // Outputs are not shared.
        assert_ne!(requests[0].output(0), requests[1].output(0));
        // The scenario gives other units and block sizes. Ids for the full blocks alone are enough.
        let format = TraceFormat { time_unit: Some(TimeUnit::Seconds), block_size: Some(16) };
        let text = r#"{"timestamp": 0.5, "input_length": 40, "output_length": 1, "hash_ids": [4, 5]}"#;
        let trace = super::read(text.as_bytes(), &classes(), format).expect("a line");
        let one = &trace.requests[0];
        assert_eq!((one.arrival.as_secs_f64(), one.prefix, one.body, one.blocks.len()), (0.5, 32, 8, 2));
    }

    #[test]
    fn whole_numbers_that_may_be_milliseconds_need_a_unit() {
        let text = |last: f64| {
            format!(
                "{{\"arrival\": 0, \"prompt\": 9, \"output\": 1}}\n{{\"arrival\": {last}, \"prompt\": 9, \"output\": 1}}"
            )
        };
        let error = error(text(27_482.0).as_bytes());
        assert!(error.contains("27482") && error.contains("time_unit = \"ms\""), "{error}");
        assert!(
            read(text(999.0).as_bytes(), &classes()).is_ok() && read(text(27_482.5).as_bytes(), &classes()).is_ok()
        );
        for (unit, seconds) in [("s", 27_482.0), ("ms", 27.482), ("us", 0.027_482)] {
            let format = TraceFormat { time_unit: Some(unit.parse().expect("a unit")), ..TraceFormat::default() };
            let trace = super::read(text(27_482.0).as_bytes(), &classes(), format).expect("it has a unit");
            assert_eq!(trace.requests[1].arrival, Time::from_secs_f64(seconds));
        }
        assert!("minutes".parse::<TimeUnit>().is_err());
    }

    #[test]
    fn requests_say_of_themselves_what_their_class_does_not() {
        let line = |more: &str| format!("{{\"arrival\": 0, \"prompt\": 9, \"output\": 3{more}}}\n");
        let text = [
            line(""),
            line(
                ", \"max_tokens\": 50, \"priority\": -2, \"deadline\": 1.5, \"cancel\": 0.25, \"n\": 4, \"adapter\": 9",
            ),
            line(", \"tenant\": \"acme\", \"adapter\": \"poems\"").replace("\"output\": 3", "\"output\": 20"),
            line(", \"tenant\": 40, \"adapter\": \"poems\""),
            line(", \"tenant\": \"zen\", \"class\": \"second\""),
            line(", \"tenant\": \"acme\""),
        ];
        let mut classes = classes();
        classes[1].max_tokens = Some(70);
        let trace = super::read(text.concat().as_bytes(), &classes, TraceFormat::default()).expect("six lines");
        let of = |at: usize| &trace.requests[at];
        let two = of(1);
        assert_eq!((two.priority, two.deadline, two.cancel, two.sequences), (Some(-2), Some(1.5), Some(0.25), 4));
        // Without a limit of its own or of its class, a request gets the longest output of the trace.
        let limits: Vec<Option<u32>> = trace.requests.iter().map(|request| request.max_tokens).collect();
        assert_eq!(limits, [Some(20), Some(50), Some(20), Some(20), None, Some(20)]);
        // Names get the numbers after the largest number in use.
        assert_eq!(trace.tenants, [(41, "acme".to_owned()), (42, "zen".to_owned())]);
        let tenants: Vec<u32> = trace.requests.iter().map(|request| request.tenant).collect();
        assert_eq!(tenants, [4, 4, 41, 40, 42, 41]);
        let adapters: Vec<Option<u32>> = trace.requests.iter().map(|request| request.adapter).collect();
        assert_eq!(adapters, [None, Some(9), Some(10), Some(10), None, None]);
    }

    #[test]
    fn traces_without_text_are_refused() {
        for nothing in [&b""[..], b"\n\r\n  \n", b"\xef\xbb\xbf"] {
            assert!(error(nothing).contains("there is no request in it"));
        }
        let error = error(b"{\"arrival\": 1, \"prompt\": 20, \"output\": 5}\ncaf\xe9\n");
        assert!(error.starts_with("line 2 of the trace: it is not UTF-8"), "{error}");
        // UTF-16, as some editors save it.
        assert!(read(b"\xff\xfe{\0}\0", &classes()).is_err());
    }

    #[test]
    fn words_are_repeated_up_to_320_and_otherwise_their_beginning_and_end() {
        let whole = format!("a{}z", "é".repeat(318));
        assert_eq!(shortened(&whole), whole);
        assert_eq!(shortened("a\tb\n"), "a\u{fffd}b\u{fffd}");
        let long = format!("{}\r{}\r{}", "a".repeat(159), "b".repeat(999), "z".repeat(159));
        let expected = format!("{}\u{fffd} … \u{fffd}{}", "a".repeat(159), "z".repeat(159));
        assert_eq!(shortened(&long), expected);
        assert_eq!(shortened(&format!("{whole}z")).chars().count(), 323);
    }

    #[test]
    fn what_a_request_says_itself_is_no_beginning_that_others_share() {
        let line =
            |group: u64| format!(r#"{{"arrival": 0, "prompt": 9, "output": 1, "prefix": 4, "prefix_group": {group}}}"#);
        let text: Vec<String> = (0..100).map(|at| line(at % 50)).collect();
        let requests = read(text.join("\n").as_bytes(), &classes()).expect("a hundred lines");
        let shared: std::collections::BTreeSet<u64> = requests.iter().map(|one| one.prefix_stream).collect();
        let own: std::collections::BTreeSet<u64> = requests.iter().map(|one| one.body_stream).collect();
        assert_eq!((shared.len(), own.len()), (50, 100));
        assert!(shared.is_disjoint(&own));
    }

    #[test]
    fn long_lines_are_read_or_named_in_few_words() {
        let spaces = " ".repeat(1 << 20);
        let line = format!(r#"{{"arrival": 1,{spaces}"prompt": 20, "output": 5}}"#);
        assert_eq!(read(line.as_bytes(), &classes()).expect("a line").len(), 1);
        for wrong in [
            format!(r#"{{"{}": 1}}"#, "x".repeat(1 << 20)),
            "x".repeat(1 << 20),
            "[".repeat(1 << 20),
            format!(r#"{{"arrival": 1, "prompt": 20, "output": 5, "class": "{}"}}"#, "\\u0007y".repeat(1 << 17)),
        ] {
            let error = error(wrong.as_bytes());
            assert!(error.starts_with("line 1 of the trace: ") && error.chars().count() < 500, "{error}");
            assert!(!error.contains('\u{7}'));
        }
    }
}

//! Traces from outside: a request a line, as JSON.
//!
//! A line is `{"arrival": 0.5, "prompt": 200, "output": 50}`, with the arrival in seconds; `tenant`, `class` (by name),
//! `prefix_group` and `prefix` (its length, a part of `prompt`) may be added. Lines come in order of time and may end in
//! LF or CRLF, the last one in nothing; empty ones are passed over, and so is a byte order mark at the beginning.

use serde::Deserialize;

use super::trace::{MOST_REQUESTS, MOST_TOKENS};
use super::{Class, TraceRequest};
use crate::random::mix;
use crate::{SchedulerError, Time};

/// A line of a trace.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    arrival: f64,
    prompt: u32,
    output: u32,
    tenant: Option<u32>,
    class: Option<String>,
    #[serde(default)]
    prefix_group: u64,
    #[serde(default)]
    prefix: u32,
}

/// How much of what was found a message repeats.
const EXCERPT: usize = 160;

/// Reads the trace `bytes` for requests of `classes`.
pub(super) fn read(bytes: &[u8], classes: &[Class]) -> Result<Vec<TraceRequest>, SchedulerError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut requests: Vec<TraceRequest> = Vec::new();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let place = || format!("line {} of the trace", at + 1);
        let refuse = |reason: String| SchedulerError::Scenario { place: place(), reason: shortened(&reason) };
        let line = std::str::from_utf8(line).map_err(|error| refuse(format!("it is not UTF-8 text: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let entry: Entry = serde_json::from_str(line).map_err(|error| {
            // Each line is a text of its own, so that the line in serde's message is always 1.
            let words = error.to_string().replace(" at line 1 column ", " at column ");
            refuse(format!("{words}; expected {{\"arrival\": seconds, \"prompt\": tokens, \"output\": tokens}}"))
        })?;
        let request = request(&entry, at as u64, classes).map_err(refuse)?;
        if requests.last().is_some_and(|last| last.arrival > request.arrival) {
            return Err(refuse("arrival: it is before that of the line above; sort the lines by arrival".into()));
        }
        if requests.len() as u64 >= MOST_REQUESTS {
            return Err(refuse("there are more than 100 million requests; give fewer".into()));
        }
        requests.push(request);
    }
    if requests.is_empty() {
        let reason = "there is no request in it; expected one a line, as JSON".into();
        return Err(SchedulerError::Scenario { place: "the trace".into(), reason });
    }
    Ok(requests)
}

/// The request of an entry, or what is wrong with it.
fn request(entry: &Entry, at: u64, classes: &[Class]) -> Result<TraceRequest, String> {
    if !(0.0..=1e9).contains(&entry.arrival) {
        return Err(format!("arrival: found {}, expected seconds from the start, from 0 to 1e9", entry.arrival));
    }
    for (field, tokens) in [("prompt", entry.prompt), ("output", entry.output)] {
        if !(1..=MOST_TOKENS).contains(&tokens) {
            return Err(format!("{field}: found {tokens}, expected 1 to {MOST_TOKENS} tokens"));
        }
    }
    if entry.prefix >= entry.prompt {
        let (found, prompt) = (entry.prefix, entry.prompt);
        return Err(format!(
            "prefix: found {found}, expected fewer than the prompt's {prompt} tokens, of which it is a part"
        ));
    }
    let has = |class: &Class, tenant: u32| (class.tenant..class.tenant + class.tenants).contains(&tenant);
    let class = match (&entry.class, entry.tenant) {
        (Some(name), _) => {
            let known = || classes.iter().map(|class| class.name.as_str()).collect::<Vec<&str>>().join(", ");
            let place = classes.iter().position(|class| class.name == *name);
            place.ok_or_else(|| format!("class: found {:?}, expected one of {}", shortened(name), known()))?
        }
        // Without a class, the first that has the tenant.
        (None, Some(tenant)) => classes.iter().position(|class| has(class, tenant)).unwrap_or(0),
        (None, None) => 0,
    };
    let tenant = entry.tenant.unwrap_or(classes[class].tenant);
    if !classes.iter().any(|class| has(class, tenant)) {
        return Err(format!("tenant: found {tenant}, expected one of those that the scenario's classes have"));
    }
    Ok(TraceRequest {
        arrival: Time::from_secs_f64(entry.arrival),
        class: class as u16,
        tenant,
        prefix_stream: mix(entry.prefix_group.wrapping_add(1)),
        prefix: entry.prefix,
        body_stream: mix(!at),
        body: entry.prompt - entry.prefix,
        new_tokens: entry.output,
        ..TraceRequest::default()
    })
}

/// Words on one line and of a length that can be read, whatever the file holds.
pub(super) fn shortened(words: &str) -> String {
    let plain = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    if words.chars().nth(2 * EXCERPT).is_none() {
        return words.chars().map(plain).collect();
    }
    let mut end: Vec<char> = words.chars().rev().take(EXCERPT).collect();
    end.reverse();
    words.chars().take(EXCERPT).chain(" … ".chars()).chain(end).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<Class> {
        let class = |name: &str, tenant| Class { name: name.into(), tenant, ..Class::default() };
        vec![class("first", 4), class("second", 7)]
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
            (r#"{"arrival": -1, "prompt": 20, "output": 5}"#, &["arrival: found -1", "0 to 1e9"]),
            (r#"{"arrival": 1.4, "prompt": 20, "output": 5}"#, &["arrival", "before that of the line above"]),
            (r#"{"arrival": 2, "prompt": 0, "output": 5}"#, &["prompt: found 0"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 0}"#, &["output: found 0"]),
            (r#"{"arrival": 2, "prompt": 4294967295, "output": 5}"#, &["prompt: found 4294967295", "16777216"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "prefix": 20}"#, &["prefix: found 20", "20 tokens"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "class": "third"}"#, &["third", "first, second"]),
            (r#"{"arrival": 2, "prompt": 20, "output": 5, "tenant": 5}"#, &["tenant: found 5"]),
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

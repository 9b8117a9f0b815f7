//! A line of `fornax generate --prompts`: a JSON object with a prompt and its own parameters.

use fornax::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::batch_output::Place;
use crate::lines::Line;

/// The keys of which a line has exactly one.
const PROMPTS: [&str; 3] = ["prompt", "token_ids", "messages"];

/// The request of a line.
#[derive(Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: Prompt,
    /// Its parameters.
    pub params: SamplingParams,
}

/// Reads requests.
#[derive(Debug)]
pub struct RequestReader {
    /// The parameters that a line does not set.
    defaults: SamplingParams,
    /// The same as JSON, with the keys that lines use.
    defaults_json: Map<String, Value>,
}

impl RequestReader {
    /// A reader of requests whose parameters are `defaults` unless a line sets them.
    pub fn new(defaults: SamplingParams) -> serde_json::Result<Self> {
        let defaults_json = serde_json::from_value(serde_json::to_value(&defaults)?)?;
        Ok(Self { defaults, defaults_json })
    }

    /// The place of a line, and its request or an error message.
    pub fn read(&self, line: Line) -> (Place, Result<Request, String>) {
        let (place, object) = object(line);
        let request = object.and_then(|object| self.request(object));
        (place, request)
    }

    fn request(&self, mut object: Map<String, Value>) -> Result<Request, String> {
        let prompt = prompt(&mut object)?;
        let unknown: Vec<_> = object.keys().filter(|key| !self.defaults_json.contains_key(*key)).collect();
        if !unknown.is_empty() {
            let known: Vec<_> =
                PROMPTS.into_iter().chain(["id"]).chain(self.defaults_json.keys().map(String::as_str)).collect();
            return Err(format!("unknown {}; expected one of {}", named(&unknown), known.join(", ")));
        }
        if object.is_empty() {
            return Ok(Request { prompt, params: self.defaults.clone() });
        }
        let mut params = self.defaults_json.clone();
        for (key, value) in object {
            // Parsed one by one, so that an error names the key.
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            parsed::<SamplingParams>(&key, alone.into())?;
            params.insert(key, value);
        }
        Ok(Request { prompt, params: parsed("parameters", params.into())? })
    }
}

/// The keys in quotes, with the noun for them.
fn named(keys: &[&String]) -> String {
    let quoted: Vec<_> = keys.iter().map(|key| format!("{key:?}")).collect();
    format!("{} {}", if keys.len() == 1 { "key" } else { "keys" }, quoted.join(", "))
}

/// A line's JSON object without its `id`, which is part of its place.
pub fn object(line: Line) -> (Place, Result<Map<String, Value>, String>) {
    let mut place = Place { index: line.index, id: None };
    let object = line.text.and_then(|text| match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("expected a JSON object a line, found {}", kind(&other))),
        // serde counts lines within this one, so that its number would mislead.
        Err(error) => Err(format!("not a JSON object: {error}").replace(" at line 1 column ", " at column ")),
    });
    let object = object.and_then(|mut object| {
        match object.shift_remove("id") {
            None | Some(Value::Null) => {}
            Some(id @ (Value::String(_) | Value::Number(_))) => place.id = Some(id),
            Some(other) => return Err(format!("id: expected a string or a number, found {}", kind(&other))),
        }
        Ok(object)
    });
    (place, object)
}

/// Takes the prompt out of an object, which must have exactly one.
fn prompt(object: &mut Map<String, Value>) -> Result<Prompt, String> {
    let found: Vec<&str> = PROMPTS.into_iter().filter(|key| object.contains_key(*key)).collect();
    let [key] = found.as_slice() else {
        let found = if found.is_empty() { "none of them".to_owned() } else { found.join(" and ") };
        return Err(format!("expected exactly one of prompt, token_ids and messages, found {found}"));
    };
    let value = object.shift_remove(*key).unwrap_or_default();
    Ok(match *key {
        "prompt" => Prompt::Text(parsed(key, value)?),
        "token_ids" => Prompt::Tokens(parsed(key, value)?),
        _ => match parsed::<Vec<Message>>(key, value)? {
            messages if messages.is_empty() => return Err("messages: expected at least one, found none".into()),
            messages => Prompt::Messages(messages),
        },
    })
}

/// Parses a value; an error message names the key.
pub fn parsed<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("{key}: {error}"))
}

/// The kind of a JSON value, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Place, Result<Request, String>) {
        let defaults = SamplingParams::default().temperature(0.7).stop(["\n"]).seed(3).min_p(0.1);
        RequestReader::new(defaults).expect("JSON").read(Line { index: 4, text: Ok(text.into()) })
    }

    #[test]
    fn keys_override_the_defaults_and_the_others_keep_them() {
        let (place, request) = read(
            r#"{"id": "a", "prompt": "x", "temperature": 0, "stop": [], "seed": null, "logit_bias": {"7": -1.5},
                "early_stopping": "never", "logprobs": 2}"#,
        );
        assert_eq!((place.index, place.id), (4, Some("a".into())));
        let Request { prompt, params } = request.expect("a request");
        assert_eq!(prompt, "x".into());
        let expected = SamplingParams::default().min_p(0.1).logit_bias([(7, -1.5)]).logprobs(2);
        assert_eq!(params, expected.early_stopping(fornax::engine::sampling::EarlyStopping::Never));
        let (_, request) = read(r#"{"prompt": "x"}"#);
        assert_eq!(request.expect("a request").params.stop, ["\n"]);
    }

    #[test]
    fn prompts_are_texts_tokens_or_messages() {
        assert_eq!(read(r#"{"token_ids": [1, 2]}"#).1.expect("tokens").prompt, vec![1, 2].into());
        let (_, request) = read(r#"{"messages": [{"role": "user", "content": "hi", "name": "Ada"}]}"#);
        assert_eq!(request.expect("messages").prompt, Prompt::Messages(vec![Message::user("hi").with("name", "Ada")]));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, names) in [
            ("{", &["not a JSON object", "at column 1"][..]),
            ("[1]", &["object", "an array"]),
            ("{}", &["exactly one of prompt, token_ids and messages", "none"]),
            (r#"{"prompt": "a", "messages": []}"#, &["prompt and messages"]),
            (r#"{"prompt": 3}"#, &["prompt: ", "string"]),
            (r#"{"token_ids": [-1]}"#, &["token_ids: ", "-1"]),
            (r#"{"messages": []}"#, &["messages: ", "at least one"]),
            (r#"{"messages": [{"content": "x"}]}"#, &["messages: ", "role"]),
            (r#"{"prompt": "a", "temprature": 1}"#, &["unknown key \"temprature\"", "temperature", "id"]),
            (r#"{"prompt": "a", "x": 1, "y": 1}"#, &["unknown keys \"x\", \"y\""]),
            (r#"{"prompt": "a", "top_k": "many"}"#, &["top_k: ", "many"]),
            (r#"{"prompt": "a", "early_stopping": "soon"}"#, &["early_stopping"]),
            (r#"{"prompt": "a", "id": [1]}"#, &["id: ", "an array"]),
        ] {
            let error = read(text).1.expect_err(text);
            for name in names {
                assert!(error.contains(name), "no {name:?} in {error:?} of {text}");
            }
        }
        let (place, request) = read(r#"{"id": 7, "prompt": "a", "x": 1}"#);
        assert!(request.is_err() && place.id == Some(7.into()));
    }
}

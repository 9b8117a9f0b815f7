//! The Jinja environment of chat templates, set up as transformers sets up its own.
//!
//! No loader: a template cannot include another. What Python has and minijinja has not is added here.

use super::{time, tojson};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::borrow::Cow;
use std::time::SystemTime;

/// Nesting of macro calls and loops; each takes some kilobytes of the thread's stack.
const MAX_RECURSION: usize = 100;

/// An environment in which `strftime_now` tells the time `now`.
pub(super) fn new<'source>(now: SystemTime) -> Environment<'source> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    // Only delimiters that clash are refused, and these are the usual ones.
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson::filter);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| time::strftime(format, now));
    environment
}

/// The methods that the pycompat helpers do not have.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let (ValueKind::String, Some(text)) = (value.kind(), value.as_str()) {
        match (name, args.first().and_then(Value::as_str)) {
            ("removeprefix", Some(prefix)) => return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text))),
            ("removesuffix", Some(suffix)) => return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text))),
            ("partition", Some(separator)) if !separator.is_empty() => {
                let (before, middle, after) = match text.split_once(separator) {
                    Some((before, after)) => (before, separator, after),
                    None => (text, "", ""),
                };
                return Ok(Value::from([before, middle, after].map(Value::from).to_vec()));
            }
            ("index", Some(part)) => {
                let at =
                    text.find(part).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
                return Ok(Value::from(text[..at].chars().count()));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Turns `{% generation %}`, with which transformers marks what the assistant says, into a block without effect.
/// Lines keep their numbers.
pub(super) fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // From 2 on, because the percent sign of `{%}` does not close the tag that it opens.
        let Some(end) = tag[2..].find("%}").map(|end| end + 4) else {
            rest = tag;
            break;
        };
        let inner = tag[2..end - 2].trim_matches(|c| c == '-' || c == '+').trim();
        let replaced = match inner {
            "generation" => Some(tag[..end].replacen("generation", "if true", 1)),
            "endgeneration" => Some(tag[..end].replacen("endgeneration", "endif", 1)),
            _ => None,
        };
        // After any other tag go on behind its opening: a `%}` within a string does not end the tag.
        let taken = if replaced.is_some() { end } else { 2 };
        out.push_str(replaced.as_deref().unwrap_or(&tag[..2]));
        rest = &tag[taken..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Takes an argument by position or by name.
pub(super) fn argument(args: &[Value], kwargs: &Kwargs, at: usize, name: &str) -> Result<Option<Value>, Error> {
    let value = match args.get(at) {
        Some(value) => Some(value.clone()),
        None => kwargs.get::<Option<Value>>(name)?,
    };
    Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_lose_their_effect_and_keep_their_whitespace_control() {
        let source = "a\n{%- generation -%} x {% endgeneration %}{{ add_generation_prompt }}{% if '%}' %}";
        let expected = "a\n{%- if true -%} x {% endif %}{{ add_generation_prompt }}{% if '%}' %}";
        assert_eq!(without_generation_tags(source), expected);
        for broken in ["generation {% broken", "generation {%}", "generation {%%}", "{% generation"] {
            assert_eq!(without_generation_tags(broken), broken);
        }
    }
}

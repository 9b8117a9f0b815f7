//! The same texts as transformers' `apply_chat_template`, and errors in place of anything worse.

use crate::json;
use fornax_text::{ChatTemplate, Message, TemplateOptions, TextError};
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn texts_are_those_of_transformers() {
    let fixture = json("chat.json");
    let (mut texts, mut errors) = (0, 0);
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let mut template = ChatTemplate::new(fixture["templates"][name].as_str().unwrap());
        for (token, value) in fixture["tokens"].as_object().unwrap() {
            template = template.with_token(token, value.as_str().unwrap());
        }
        let flag = |key: &str| case[key].as_bool().unwrap_or(false);
        let mut options = TemplateOptions {
            add_generation_prompt: flag("add_generation_prompt"),
            continue_final_message: flag("continue_final_message"),
            tools: flag("tools").then(|| fixture["tools"].as_array().unwrap().clone()),
            ..Default::default()
        };
        if let Some(value) = case.get("enable_thinking") {
            options.variables.insert("enable_thinking".into(), value.clone());
        }
        let chat = &fixture["chats"][case["chat"].as_str().unwrap()];
        let found = template.render(&messages(chat), &options);
        match case["text"].as_str() {
            Some(expected) => {
                texts += 1;
                assert_eq!(found.as_deref().unwrap_or("an error"), expected, "{case}: {found:?}");
            }
            None => {
                errors += 1;
                let error = found.expect_err(&case.to_string());
                assert!(matches!(error, TextError::Template { .. }), "{case}: {error}");
                // What a template says itself arrives word for word; other errors are worded by each engine.
                let expected = case["error"].as_str().unwrap();
                if expected.contains("must alternate") || expected.contains("not supported") {
                    assert!(error.to_string().contains(expected), "{case}: {error}");
                }
            }
        }
    }
    assert!(texts > 70 && errors > 10, "{texts} texts and {errors} errors were compared");
}

fn render(source: &str) -> Result<String, TextError> {
    ChatTemplate::new(source).render(&[Message::user("hi")], &TemplateOptions::default())
}

#[test]
fn an_error_names_the_line_and_the_reason() {
    let error = render("line one\n{{ raise_exception('No such role') }}").unwrap_err();
    assert_eq!(error.to_string(), "chat template \"default\" failed in line 2: No such role");
    let error = render("\n\n{{ messages[0].content.nothing() }}").unwrap_err();
    assert!(error.to_string().contains("in line 3") && error.to_string().contains("nothing"), "{error}");
    let error = render("a\n{% if %}").unwrap_err();
    assert!(matches!(error, TextError::Template { line: Some(2), .. }), "{error}");
    let error = ChatTemplate::named([("rag".into(), "x".into())]).render(&[], &TemplateOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "no chat template named \"default\": this tokenizer has rag");
}

#[test]
fn what_does_not_end_is_stopped() {
    let forever = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    let long = "{% for a in range(10000) %}{% for b in range(10000) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}";
    for (source, reason) in [
        (forever, "did not end"),
        (long, "longer than"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
        ("{{ range(1000000000) }}", "range"),
        ("{{ 'x' * 100000000000 }}", "too large"),
        ("{% include 'file:///etc/passwd' %}", "passwd"),
    ] {
        let error = render(source).unwrap_err().to_string();
        assert!(error.contains(reason), "{source}: {error}");
    }
    let nested = format!("{}{}", "{% if true %}".repeat(3000), "{% endif %}".repeat(3000));
    assert!(matches!(render(&nested), Err(TextError::Template { .. })));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(matches!(render(&parentheses), Err(TextError::Template { .. })));
}

#[test]
fn templates_cannot_reach_python() {
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% set x = messages.__class__ %}{{ x.__base__ }}",
    ] {
        match render(source) {
            Ok(text) => assert_eq!(text.trim(), "", "{source}"),
            Err(error) => assert!(matches!(error, TextError::Template { .. }), "{source}: {error}"),
        }
    }
}

#[test]
fn options_reach_the_template() {
    let template = ChatTemplate::named([
        ("default".into(), "plain {{ tools is none }} {{ documents is none }}".into()),
        ("tool_use".into(), "tools {{ tools | length }} {{ documents[0].title }}".into()),
        ("now".into(), "{{ strftime_now('%d %b %Y') }} {{ mood }}".into()),
    ]);
    let mut options = TemplateOptions::default();
    assert_eq!(template.render(&[], &options).unwrap(), "plain True True");
    options.tools = Some(vec![Value::Null]);
    options.documents = Some(vec![serde_json::json!({"title": "T"})]);
    assert_eq!(template.render(&[], &options).unwrap(), "tools 1 T");
    options.template = Some("now".into());
    options.now = Some(UNIX_EPOCH + Duration::from_secs(1_722_000_000));
    options.variables.insert("mood".into(), "sunny".into());
    assert_eq!(template.render(&[], &options).unwrap(), "26 Jul 2024 sunny");
}

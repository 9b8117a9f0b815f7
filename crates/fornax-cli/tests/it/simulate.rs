//! The simulator from the command line: the same seed gives the same output, plots are written to the given folder, and
//! errors name what cannot be read.

use std::fs;

use serde_json::Value;

use crate::support::{arg, error_of, fails, ok, run, run_with_input, stdout};

/// A scenario that takes no time.
const SMALL: &str = r#"
title = "Small"
requests = 300
arrivals = { poisson = 30.0 }
cost = { fitted = { base = 0.005, per_token = 4e-5, per_context = 5e-8 } }
class = [{ name = "chat" }, { name = "batch", share = 0.5, tenant = 1 }]
variant = [{ policy = "fcfs" }, { policy = "shortest" }]
"#;

fn file(folder: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("written");
    arg(&path).to_owned()
}

#[test]
fn what_ships_is_listed_and_runs() {
    let listed = ok(&["simulate", "--list"]);
    for name in ["mixed", "tenants", "prefixes", "conversations", "diurnal", "learning", "fleet"] {
        let line = listed.lines().find(|line| line.starts_with(&format!("{name} "))).expect(name);
        assert!(line.len() > name.len() + 20, "{line}");
    }
    let json: Value = serde_json::from_str(&ok(&["simulate", "--list", "--json"])).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(listed.lines().count()));
    let text = ok(&["simulate", "mixed", "--requests", "200"]);
    for words in ["Mixed, seed 1", "By class", "By variant", "Times the oracle's", "oracle (srpt)"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[test]
fn the_same_seed_gives_the_same_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = file(&folder, "small.toml", SMALL);
    let with = |seed: &str| ok(&["simulate", &scenario, "--json", "--seed", seed]);
    assert_eq!(with("5"), with("5"));
    assert_ne!(with("5"), with("6"));
    let json: Value = serde_json::from_str(&with("5")).expect("JSON");
    assert_eq!((json["seed"].as_u64(), json["title"].as_str()), (Some(5), Some("Small")));
    let variants = json["variants"].as_array().expect("variants");
    let served: u64 =
        variants[0]["classes"].as_array().expect("classes").iter().flat_map(|c| c["finished"].as_u64()).sum();
    assert_eq!((variants.len(), variants[1]["name"].as_str(), served), (2, Some("shortest"), 300));
    let text = ok(&["simulate", &scenario, "--seed", "5", "--seeds", "3"]);
    assert!(text.starts_with("Small, seeds 5 to 7\n") && text.contains(" ± "), "{text}");
    // From standard input it is the same scenario.
    assert_eq!(stdout(&run_with_input(&["simulate", "-", "--json", "--seed", "5"], SMALL)), with("5"));
}

#[test]
fn policies_are_compared_and_plots_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = file(&folder, "small.toml", SMALL);
    let plots = folder.path().join("deep/plots");
    let text = ok(&["simulate", &scenario, "--compare", "vtc,bandit:epoch=2,explore=0.5", "--plots", arg(&plots)]);
    assert!(text.contains("\nvtc ") && text.contains("\nbandit:epoch=2,explore=0.5 "), "{text}");
    assert!(!text.contains("\nfcfs"));
    let paths: Vec<&str> = text.lines().skip_while(|line| *line != "Plots").skip(1).collect();
    assert!(paths.len() >= 4, "{text}");
    for path in paths {
        assert!(fs::read_to_string(path).expect("it lies there").starts_with("<svg"), "{path}");
    }
    let json = ok(&["simulate", &scenario, "--plots", arg(&plots), "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["plots"].as_array().is_some_and(|paths| paths.len() >= 4), "{json}");
}

#[test]
fn traces_are_served_instead() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = file(&folder, "small.toml", SMALL);
    let line = |at: f64| format!("{{\"arrival\": {at}, \"prompt\": 50, \"output\": 4, \"class\": \"batch\"}}\r\n");
    let trace = file(&folder, "trace.jsonl", format!("\u{feff}{}{}{}", line(0.0), line(0.5), line(0.5).trim_end()));
    let json = ok(&["simulate", &scenario, "--trace", &trace, "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let finished = |class: usize| json["variants"][0]["classes"][class]["finished"].as_u64();
    assert_eq!((finished(0), finished(1)), (Some(0), Some(3)));
    for (text, names) in [
        (&b""[..], &["no request"][..]),
        (b"{\"arrival\": 0, \"prompt\": 1}\n", &["line 1", "output"]),
        (
            b"{\"arrival\": 0, \"prompt\": 5, \"output\": 1}\n{\"arrival\": -2, \"prompt\": 5, \"output\": 1}",
            &["line 2", "-2"],
        ),
        (b"\n\xff\xff\n", &["line 2", "UTF-8"]),
        (b"{\"arrival\": 27482, \"prompt\": 5, \"output\": 1}\n", &["27482", "time_unit"]),
    ] {
        let trace = file(&folder, "bad.jsonl", text);
        fails(&["simulate", &scenario, "--trace", &trace], &[&["bad.jsonl"], names].concat());
    }
    let whole = file(&folder, "ms.jsonl", "{\"arrival\": 27482, \"prompt\": 5, \"output\": 1}\n");
    ok(&["simulate", &scenario, "--trace", &whole, "--time-unit", "ms"]);
    fails(&["simulate", &scenario, "--trace", "nowhere.jsonl"], &["nowhere.jsonl"]);
}

#[test]
fn what_cannot_be_simulated_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    fails(&["simulate", "nothing"], &["nothing", "mixed", "TOML file"]);
    fails(&["simulate", arg(folder.path())], &["cannot read"]);
    let latin = file(&folder, "latin.toml", b"title = \"caf\xe9\"");
    fails(&["simulate", &latin], &["latin.toml", "UTF-8"]);
    for (name, from, to, names) in [
        ("empty", SMALL, "", &["it is empty", "[[variant]]"][..]),
        ("unknown", "requests", "requets", &["line 3", "requets", "requests"]),
        ("policy", "fcfs", "quickest", &["quickest", "shortest"]),
        ("rate", "30.0", "-30.0", &["arrivals", "-30"]),
        ("nan", "30.0", "nan", &["arrivals", "NaN"]),
        ("huge", "= 300", "= 1e300", &["line 3", "floating point"]),
        ("many", "= 300", "= 9000000000000000000", &["requests", "100 million"]),
        ("block", "{ policy = \"fcfs\" }", "{ block-size = 0 }", &["block_size is 0"]),
        ("twice", "shortest", "fcfs", &["variant \"fcfs\"", "name"]),
    ] {
        let scenario = file(&folder, &format!("{name}.toml"), SMALL.replace(from, to));
        fails(&["simulate", &scenario], &[&[format!("{name}.toml").as_str()], names].concat());
    }
    let scenario = file(&folder, "small.toml", SMALL);
    fails(&["simulate", &scenario, "--compare", "fcfs,quickest"], &["quickest", "shortest"]);
    fails(&["simulate", &scenario, "--requests", "0"], &["requests is 0"]);
    fails(&["simulate", &scenario, "--plots", &scenario], &["small.toml", "folder"]);
    let error = error_of(&run(&["simulate", &scenario, "--compare", ""]));
    assert!(error.contains("there is no policy"), "{error}");
    // A scenario is required, and --requests contradicts a trace.
    for args in [&["simulate"][..], &["simulate", &scenario, "--trace", "x", "--requests", "3"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

//! Good and bad scenarios and traces. Each is simulated, or refused with a message that says where and what was
//! expected. None panics, hangs or fills the memory.

use fornax_scheduler::simulate::{BUILT_IN, Fleet, MOST_TOKENS, Scenario, simulate};
use fornax_scheduler::{Random, SchedulerError};

/// A scenario that runs in no time, with a line of each kind.
const SMALL: &str = "\
title = \"Small\"
requests = 40
seed = 3
weights = [[0, 2.0]]
arrivals = { poisson = 30.0 }
cost = { fitted = { base = 0.005, per_token = 4e-5, per_context = 5e-8 } }
[[class]]
name = \"chat\"
share = 1.5
tenants = 2
prompt = { log-normal = [100.0, 0.8, 900] }
output = { uniform = [3, 40] }
prefix = { groups = 3, tokens = 64, skew = 1.0 }
turns = { mean = 2.0, think = 1.0 }
priority = 1
deadline = 90.0
acceptance = 0.5
[[class]]
name = \"batch\"
tenant = 2
prompt = { pareto = [50.0, 1.5, 800] }
output = { fixed = 9 }
[defaults]
blocks = 512
block_size = 16
max-running = 8
max_tokens = 64
[[variant]]
policy = \"shortest:ageing=0.5\"
prediction = 0.3
[[variant]]
name = \"routed\"
routing = \"prefix:epsilon=0.1\"
replicas = 3
";

fn error(text: &str) -> String {
    let error = Scenario::parse(text).map(drop).expect_err("it is refused");
    assert!(error.to_string().chars().count() < 1500, "{error}");
    error.to_string()
}

#[test]
fn a_scenario_of_every_line_runs() {
    let outcome = simulate(SMALL, None).expect("sound");
    assert_eq!(outcome.reports.len(), 2);
    for text in [SMALL.replace('\n', "\r\n"), format!("\u{feff}{SMALL}")] {
        assert_eq!(simulate(&text, None).as_ref(), Ok(&outcome), "line ends and a byte order mark change nothing");
    }
}

#[test]
fn without_a_seed_it_is_one() {
    let seed = |line: &str| Scenario::parse(&SMALL.replacen("seed = 3\n", line, 1)).expect("sound").seed;
    assert_eq!([seed(""), seed("seed = 0\n"), seed("seed = 3\n")], [1, 0, 3]);
}

#[test]
fn contradictions_and_nonsense_are_named() {
    assert_eq!(Scenario::parse(SMALL).map(drop), Ok(()));
    for nothing in ["", " \n\r\n", "\u{feff}", "# only words\n"] {
        let error = error(nothing);
        assert!(error.contains("empty") || error.contains("missing field"), "{nothing:?}: {error}");
    }
    for (from, to, words) in [
        // What is not known.
        ("seed", "sede", &["line 3", "sede", "expected one of"][..]),
        ("share", "shares", &["line 9", "shares"]),
        ("skew = 1.0", "skew = 1.0, colour = 1", &["line 13", "colour"]),
        ("poisson", "regular", &["line 5", "regular", "poisson"]),
        ("poisson = 30.0", "bursty = { rate = 1.0, factor = 2.0, on = 1.0, off = 1.0, up = 1 }", &["line 5", "up"]),
        ("per_context = 5e-8", "per_day = 1.0", &["line 6", "per_day"]),
        ("log-normal", "normal", &["line 11", "normal", "log-normal"]),
        ("max-running", "most-running", &["most-running", "max_running"]),
        ("shortest", "quickest", &["quickest", "fcfs", "vtc"]),
        ("ageing", "aging", &["no option \"aging\"", "there are ageing"]),
        ("shortest:ageing=0.5", "fcfs:ageing=0.5", &["no option \"ageing\"", "it has no options"]),
        ("prefix:epsilon", "nearest:epsilon", &["routed", "no routing \"nearest\"", "round-robin"]),
        ("epsilon=0.1", "epsilon=-0.1", &["routed", "epsilon", "-0.1"]),
        ("weights = [[0,", "weights = [[9,", &["weights is 9", "no class has this tenant"]),
        // Kinds of values.
        ("requests = 40", "requests = \"many\"", &["line 2", "many"]),
        ("requests = 40", "requests = -1", &["line 2", "-1"]),
        ("requests = 40", "requests = 1e300", &["line 2", "floating point"]),
        ("requests = 40", "requests = 99999999999999999999", &["line 2"]),
        ("[3, 40]", "[3]", &["line 12"]),
        ("[3, 40]", "[3, 4, 5]", &["line 12"]),
        ("[[class]]", "[[class]", &["line 7"]),
        // Ranges.
        ("requests = 40", "requests = 0", &["requests is 0"]),
        ("requests = 40", "requests = 100000001", &["requests", "100 million"]),
        ("poisson = 30.0", "poisson = 0.0", &["arrivals", "Poisson(0.0)"]),
        ("poisson = 30.0", "poisson = nan", &["arrivals", "NaN"]),
        ("poisson = 30.0", "poisson = -inf", &["arrivals"]),
        ("poisson = 30.0", "poisson = 1e300", &["arrivals", "1e9 requests a second"]),
        ("poisson = 30.0", "diurnal = { rate = 1e300, depth = 1.0, period = 1e-300 }", &["arrivals"]),
        ("poisson = 30.0", "bursty = { rate = 1e-9, factor = 2.0, on = 1e-3, off = 1e-3 }", &["arrivals", "million"]),
        ("base = 0.005", "base = -0.005", &["cost", "-0.005"]),
        ("base = 0.005", "base = nan", &["cost", "NaN"]),
        ("base = 0.005, per_token = 4e-5, per_context = 5e-8", "base = 0, per_token = 0, per_context = 0", &["cost"]),
        ("share = 1.5", "share = 0.0", &["class.share", "\"chat\""]),
        ("share = 1.5", "share = inf", &["class.share"]),
        ("tenants = 2", "tenants = 0", &["class.tenants", "\"chat\""]),
        ("tenant = 2", "tenant = 4294967295", &["class.tenants", "\"batch\""]),
        ("[3, 40]", "[40, 3]", &["class.output", "Uniform(40, 3)"]),
        ("[3, 40]", "[0, 3]", &["class.output"]),
        ("[3, 40]", "[1, 4294967295]", &["class.output", "2^24"]),
        ("[100.0, 0.8, 900]", "[nan, 0.8, 900]", &["class.prompt", "NaN"]),
        ("[50.0, 1.5, 800]", "[50.0, -1.5, 800]", &["class.prompt", "\"batch\""]),
        ("tokens = 64", "tokens = 99999999", &["class.prefix"]),
        ("groups = 3", "groups = 0", &["class.prefix"]),
        ("mean = 2.0", "mean = 0.5", &["class.turns"]),
        ("deadline = 90.0", "deadline = 0.0", &["class.deadline"]),
        ("deadline = 90.0", "first_token_target = nan", &["class.first_token_target"]),
        ("acceptance = 0.5", "acceptance = 1.5", &["class.acceptance", "1.5"]),
        ("blocks = 512", "blocks = 0", &["blocks is 0"]),
        ("blocks = 512", "blocks = 9000000000000000000", &["blocks", "100 million"]),
        ("block_size = 16", "block_size = 0", &["block_size is 0"]),
        ("replicas = 3", "replicas = 0", &["routed", "replicas is 0"]),
        ("replicas = 3", "replicas = 18000000000000000000", &["routed", "replicas", "100000"]),
        ("prediction = 0.3", "prediction = -0.3", &["prediction"]),
        ("prediction = 0.3", "report-interval = nan", &["report_interval", "NaN"]),
        ("prediction = 0.3", "prediction = \"guess\"", &["guess", "perfect", "none"]),
        ("seed = 3", "seeds = 0", &["seeds is 0", "1 to 1000"]),
        ("seed = 3", "trace = { block_size = 0 }", &["trace.block_size is 0"]),
        ("seed = 3", "trace = { time_unit = \"min\" }", &["line 3", "min", "ms"]),
        ("acceptance = 0.5", "max_tokens = 0", &["class.max_tokens"]),
        ("weights = [[0, 2.0]]", "weights = [[0, 0.0]]", &["weights is 0"]),
        ("weights = [[0, 2.0]]", "weights = [[0, 2.0], [0, 3.0]]", &["weighed twice"]),
        // Contradictions.
        ("name = \"batch\"", "name = \"chat\"", &["class.name", "\"chat\"", "of its own"]),
        ("name = \"routed\"", "name = \"shortest:ageing=0.5\"", &["same name"]),
        ("max_tokens = 64", "max_tokens = 4", &["max_tokens", "max_running"]),
        ("prediction = 0.3", "oracle = true", &["oracle", "leave them out"]),
        ("prediction = 0.3", "swap = true", &["host_blocks"]),
        ("prediction = 0.3", "reserved = true\npreemptive = true", &["preemptive"]),
        ("policy = \"shortest:ageing=0.5\"", "policy = \"bandit\"\npreemptive = true", &["preemptive", "learns"]),
        ("title = \"Small\"", "title = \"Small\"\ntitle = \"Large\"", &["line 2", "duplicate"]),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let error = error(&SMALL.replacen(from, to, 1));
        words.iter().for_each(|words| assert!(error.contains(words), "{to}: no {words:?} in {error}"));
    }
    let lonely = SMALL.split("[[variant]]").next().expect("a beginning");
    assert!(error(lonely).contains("variant"));
    assert!(error(&format!("variant = []\n{lonely}")).contains("variant"));
    let long = format!("title = \"{}", "x".repeat(1 << 20));
    assert!(error(&long).starts_with("line 1"));
    assert!(!error(&"[".repeat(1 << 20)).is_empty() && !error(&format!("a = {}", "[".repeat(1 << 20))).is_empty());
}

#[test]
fn extremes_that_are_allowed_end() {
    for (from, to) in [
        ("poisson = 30.0", "poisson = 1e9"),
        ("poisson = 30.0", "poisson = 1e-9"),
        ("poisson = 30.0", "diurnal = { rate = 1e9, depth = 1.0, period = 1e-3 }"),
        ("poisson = 30.0", "diurnal = { rate = 1e-9, depth = 1.0, period = 1e9 }"),
        ("poisson = 30.0", "bursty = { rate = 1e9, factor = 1e6, on = 1e-3, off = 1e9 }"),
        ("poisson = 30.0", "bursty = { rate = 1e-3, factor = 1.0, on = 1e-3, off = 1e-3 }"),
        ("mean = 2.0, think = 1.0", "mean = 1e300, think = 1e300"),
        ("mean = 2.0, think = 1.0", "mean = 1e300, think = 1e-300"),
        ("skew = 1.0", "skew = 1e300"),
        ("groups = 3", "groups = 4294967295"),
        ("[100.0, 0.8, 900]", "[1e300, 1e300, 900]"),
        ("[50.0, 1.5, 800]", "[1e-300, 1e300, 800]"),
        ("base = 0.005", "base = 1e5"),
        ("base = 0.005", "base = 1e-300"),
        ("prediction = 0.3", "prediction = 10.0"),
        ("prediction = 0.3", "report-interval = 1e9"),
        ("blocks = 512", "blocks = 9"),
        ("block_size = 16", "block_size = 1048576"),
        ("share = 1.5", "share = 1e9"),
        ("deadline = 90.0", "deadline = 1e300"),
        ("priority = 1", "priority = -2147483648"),
        ("acceptance = 0.5", "speculation = 4294967295"),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let outcome = simulate(&SMALL.replacen(from, to, 1), None).unwrap_or_else(|error| panic!("{to}: {error}"));
        for report in &outcome.reports {
            let all: u64 = report.classes.iter().map(|class| class.requests).sum();
            assert_eq!(all, 40, "{to}");
        }
        let text = format!("{} {:?}", outcome.json(), outcome.plots());
        assert!(!text.contains("NaN"), "{to}: {text}");
    }
}

#[test]
fn a_trace_needs_no_requests_and_arrivals_and_all_else_does() {
    let text = SMALL.replace("requests = 40\n", "").replace("arrivals = { poisson = 30.0 }\n", "");
    let trace = b"{\"arrival\": 0, \"prompt\": 20, \"output\": 3}";
    assert_eq!(simulate(&text, Some(trace)).expect("a trace").reports[0].finished, 1);
    let error = simulate(&text, None).expect_err("nothing to serve").to_string();
    assert!(error.contains("requests: it is missing") && error.contains("a trace"), "{error}");
    let error = simulate(&format!("requests = 4\n{text}"), None).expect_err("no times").to_string();
    assert!(error.contains("arrivals: it is missing"), "{error}");
}

#[test]
fn a_scenario_that_is_not_sound_reads_no_trace() {
    let trace = b"{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 3, \"hash_ids\": [1]}";
    let sound = Scenario::parse(SMALL).expect("sound");
    let refused = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = sound.clone();
        change(&mut scenario);
        scenario.read_trace(trace).expect_err("it is not sound").to_string()
    };
    let error = refused(&|scenario| scenario.classes[0].tenant = u32::MAX);
    assert!(error.starts_with("class.tenants is") && error.contains("4294967295 on"), "{error}");
    assert!(refused(&|scenario| scenario.classes.clear()).starts_with("class is 0"));
    assert!(refused(&|scenario| scenario.trace.block_size = Some(0)).starts_with("trace.block_size is 0"));
    let mut classes = sound.classes.clone();
    classes[0].tenant = u32::MAX;
    let error = Fleet::new(sound.fleet(&sound.variants[0]), &classes).expect_err("too large a number").to_string();
    assert!(error.starts_with("class.tenants is"), "{error}");
}

#[test]
fn several_seeds_give_means_and_their_spread() {
    let text = SMALL.replace("seed = 3\n", "seed = 3\nseeds = 4\n");
    let mut told = 0;
    let scenario = Scenario::parse(&text).expect("sound");
    let outcome = scenario.run(None, &mut |progress| told = told.max(progress.run + 1)).expect("it runs");
    assert_eq!((outcome.seeds(), outcome.heading().as_str(), told), (4, "Small, seeds 3 to 6", 8));
    let alone = |seed| Scenario { seed, seeds: 1, ..scenario.clone() }.run(None, &mut |_| {}).expect("it runs");
    assert_eq!(outcome.reports, alone(3).reports);
    assert_eq!(outcome.repeats, [alone(4).reports, alone(5).reports, alone(6).reports]);
    let latency = |reports: &[fornax_scheduler::simulate::Report]| reports[1].mean_latency;
    let all: Vec<f64> = [3, 4, 5, 6].map(|seed| latency(&alone(seed).reports)).to_vec();
    let mean = all.iter().sum::<f64>() / 4.0;
    let spread = &outcome.json()["spread"][1]["mean_latency"];
    assert!((spread["mean"].as_f64().expect("a mean") - mean).abs() < 1e-9, "{spread}");
    assert_eq!(spread["most"].as_f64(), Some(all.iter().copied().fold(0.0, f64::max)));
    assert!(outcome.markdown().contains(&format!("| {mean:.3} ± ")), "{}", outcome.markdown());
    assert_eq!(alone(3).json()["spread"], serde_json::Value::Null);
}

#[test]
fn a_variant_may_serve_late_requests_and_predict_no_lengths() {
    let text = SMALL.replace("prediction = 0.3", "prediction = \"none\"\ndrop_late = false\nadapters = 3");
    let scenario = Scenario::parse(&text).expect("sound");
    let fleet = scenario.fleet(&scenario.variants[0]);
    assert_eq!((fleet.prediction, fleet.batch.drop_late, fleet.batch.models[0].adapters), (None, false, 3));
    let perfect = Scenario::parse(&SMALL.replace("prediction = 0.3", "prediction = \"perfect\"")).expect("sound");
    assert_eq!(perfect.fleet(&perfect.variants[0]).prediction, Some(0.0));
    let whole = Scenario::parse(&SMALL.replace("prediction = 0.3", "prediction = 2")).expect("sound");
    assert_eq!(whole.fleet(&whole.variants[0]).prediction, Some(2.0));
}

#[test]
fn tenants_that_a_trace_names_are_served_weighed_and_reported() {
    let line = |tenant: &str| format!("{{\"arrival\": 0.5, \"prompt\": 20, \"output\": 3, \"tenant\": {tenant}}}\n");
    let trace = [line("\"acme\""), line("7"), line("\"acme\""), line("1")].concat();
    let text = SMALL.replace("weights = [[0, 2.0]]", "weights = [[0, 2.0], [\"acme\", 3.0]]");
    let outcome = simulate(&text, Some(trace.as_bytes())).expect("a trace");
    let tenants: Vec<(u32, String, u64)> =
        outcome.reports[0].tenants.iter().map(|one| (one.tenant, one.label(), one.finished)).collect();
    assert_eq!(tenants, [(1, "1".into(), 1), (7, "7".into(), 1), (8, "acme".into(), 2)]);
    assert!(outcome.markdown().contains("|  | acme | 2 |"), "{}", outcome.markdown());
    let error =
        simulate(&text.replace("acme", "amce"), Some(trace.as_bytes())).expect_err("no such tenant").to_string();
    assert!(error.contains("weights is \"amce\"") && error.contains("names no such tenant"), "{error}");
}

/// The real traces, where FORNAX_TEST_DATA holds them: Mooncake's conversations find on one replica with room for all of
/// them exactly the blocks that came before.
#[test]
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn mooncakes_conversations_find_what_came_before() {
    let folder = std::env::var_os("FORNAX_TEST_DATA").map(std::path::PathBuf::from);
    let file = folder.map(|folder| folder.join("data/traces/mooncake_conversation.jsonl"));
    let Some(bytes) = file.and_then(|file| std::fs::read(file).ok()) else {
        eprintln!("skipped: FORNAX_TEST_DATA is unset, or has no data/traces/mooncake_conversation.jsonl");
        return;
    };
    let scenario = r#"
        title = "Mooncake"
        cost = { fitted = { base = 1e-6, per_token = 0.0, per_context = 0.0 } }
        class = [{ name = "all" }]
        variant = [{ blocks = 400000, block_size = 512, max_running = 256, max_tokens = 1000000 }]
    "#;
    let outcome = simulate(scenario, Some(&bytes)).expect("it is read as it is");
    let report = &outcome.reports[0];
    assert_eq!((report.requests, report.finished), (12_031, 12_031));
    assert!((report.seconds - 3537.0).abs() < 1.0, "{}", report.seconds);
    assert_eq!(report.cache_hits, 105_592);
    assert!((report.cache_hit_rate - 105_592.0 / 276_491.0).abs() < 1e-9, "{}", report.cache_hit_rate);
}

#[test]
fn a_request_that_is_too_long_is_refused_and_the_rest_served() {
    let trace = format!(
        "{{\"arrival\": 0, \"prompt\": {MOST_TOKENS}, \"output\": 1}}\n{{\"arrival\": 1, \"prompt\": 9, \"output\": 2}}"
    );
    let outcome = simulate(SMALL, Some(trace.as_bytes())).expect("a trace");
    let class = &outcome.reports[0].classes[0];
    assert_eq!((class.requests, class.refused, class.finished), (2, 1, 1));
}

/// Changes text in one or two places, at which parsers and checks break.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const PIECES: [&str; 22] = [
        "-1",
        "0",
        "1e300",
        "nan",
        "-inf",
        "inf",
        "18446744073709551615",
        "9223372036854775807",
        "4294967295",
        "1e-300",
        "\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        "\n",
        "\u{feff}",
        "\r",
        ",",
        "true",
        "[[variant]]\n",
    ];
    for _ in 0..=random.below(8) / 4 {
        if bytes.is_empty() {
            bytes.push(random.bits() as u8);
        }
        let at = random.below(bytes.len() as u64) as usize;
        let end = (at + 1 + random.below(16) as usize).min(bytes.len());
        let piece = PIECES[random.below(PIECES.len() as u64) as usize].bytes();
        match random.below(10) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 if random.chance(0.2) => bytes.truncate(at),
            // In the place of a number, which most of the ranges are about.
            4..=6 => {
                let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
                let start = bytes[at..].iter().position(digit).map_or(at, |found| at + found);
                let stop =
                    bytes[start..].iter().position(|byte| !digit(byte)).map_or(bytes.len(), |found| start + found);
                bytes.splice(start..stop, piece);
            }
            7..=8 => {
                if let Some(found) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes[at + found] = b'0' + random.below(10) as u8;
                }
            }
            _ => drop(bytes.splice(at..at, piece)),
        }
    }
}

/// Runs `body` on mutations of `text`; a failure names its seed.
fn fuzz(name: &str, text: &str, rounds: u64, body: impl Fn(&[u8]) -> bool + std::panic::RefUnwindSafe) {
    let mut accepted = 0;
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let mut bytes = text.as_bytes().to_vec();
        mutate(&mut bytes, &mut random);
        match std::panic::catch_unwind(|| body(&bytes)) {
            Ok(fine) => accepted += u64::from(fine),
            Err(_) => panic!("{name}, seed {seed}: {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    assert!(accepted > rounds / 50 && accepted < rounds, "{name}: {accepted} of {rounds} were accepted");
}

fn small(error: &SchedulerError) -> bool {
    error.to_string().chars().count() < 1500
}

#[test]
fn mutated_scenarios_run_or_are_refused() {
    // Few requests, as configurations are tested here.
    fuzz("scenario", SMALL, 4000, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match Scenario::parse(text) {
            Ok(mut scenario) => {
                scenario.requests = scenario.requests.map(|requests| requests.min(40));
                scenario.seeds = scenario.seeds.min(2);
                if scenario.workload().is_err() {
                    return false;
                }
                let blocks = |blocks: Option<usize>| blocks.unwrap_or(0) <= 100_000;
                let replicas = |replicas: Option<usize>| replicas.unwrap_or(0) <= 1000;
                let variants = || scenario.variants.iter().chain([&scenario.defaults]);
                if variants().all(|one| blocks(one.blocks) && blocks(one.host_blocks) && replicas(one.replicas)) {
                    scenario.run(None, &mut |_| {}).expect("what is sound runs");
                }
                true
            }
            Err(error) => {
                assert!(small(&error), "{error}");
                false
            }
        }
    });
}

#[test]
fn mutated_traces_are_read_or_refused() {
    let scenario = Scenario::parse(SMALL).expect("sound");
    let line = |at: u32| {
        let milliseconds = 1000 * at + 600;
        format!(
            "{{\"arrival\": {at}.5, \"prompt\": 20, \"output\": 3, \"tenant\": 1, \"class\": \"chat\", \"prefix\": 4, \
             \"prefix_group\": 2}}\n{{\"timestamp\": {milliseconds}, \"input_length\": 600, \"output_length\": 3, \
             \"hash_ids\": [1, {at}], \"n\": 2, \"adapter\": \"a\", \"cancel\": 9, \"max_tokens\": 7}}\n"
        )
    };
    let text: String = (0..5).map(line).collect();
    fuzz("trace", &text, 4000, |bytes| match scenario.read_trace(bytes) {
        Ok(trace) => {
            let requests = &trace.requests;
            let total: u64 = requests.iter().map(|one| u64::from(one.prompt_tokens()) * u64::from(one.sequences)).sum();
            if total < 100_000 && requests.iter().all(|one| one.tenant < 100_000) {
                let outcome = scenario.run(Some(&trace), &mut |_| {}).expect("what is sound runs");
                assert_eq!(outcome.reports[0].requests, requests.len() as u64);
            }
            true
        }
        Err(error) => {
            assert!(small(&error), "{error}");
            false
        }
    });
}

#[test]
fn progress_is_told_from_the_first_request_to_the_last() {
    let scenario = Scenario { requests: Some(2500), ..Scenario::parse(SMALL).expect("sound") };
    let mut told = Vec::new();
    scenario.run(None, &mut |progress| told.push((progress.run, progress.requests, progress.of))).expect("it runs");
    let of = |number| [0, 1000, 2000, 2500].map(|requests| (number, requests, 2500));
    assert_eq!(told, [of(0), of(1)].concat());
    assert!(BUILT_IN.iter().any(|(name, _)| *name == "fleet"));
}

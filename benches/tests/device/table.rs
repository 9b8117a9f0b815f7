//! Figures as a Markdown table. Nothing is measured here.

use std::fmt::Write as _;

use serde_json::Value;

/// The limits of the device and a row for each case; what `figures` holds, `figures.rs` says.
pub fn table(figures: &Value) -> String {
    let limits = &figures["limits"];
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = format!("Device `{}`, Fornax {}.\n\n", words(&figures["device"]), words(&figures["fornax"]));
    if let Some(memory) = limits["memory"]["all_threads"].as_f64() {
        let _ = write!(text, "Limits as measured: memory {:.0} GB/s", memory / 1e9);
        for peak in limits["peaks"].as_array().into_iter().flatten() {
            let rate = peak["all_threads"].as_f64().unwrap_or_default() / 1e12;
            let _ = write!(text, "; {} {rate:.2} TFLOP/s ({})", words(&peak["arithmetic"]), words(&peak["how"]));
        }
        text.push_str(".\n\n");
    } else if let Some(error) = limits["error"].as_str() {
        let _ = write!(text, "The limits could not be measured: {}.\n\n", in_a_cell(error));
    }
    text.push_str("| case | median | GB/s | GFLOP/s | of limit | |\n|---|---:|---:|---:|---:|---:|\n");
    for row in figures["cases"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "{}", line(row, limits));
    }
    let begun = words(&figures["begun"]);
    if !begun.is_empty() {
        let _ = write!(text, "\nEnded during: {begun}.\n");
    }
    let not_run: Vec<&str> = figures["not_run"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let not_run: Vec<&str> = not_run.into_iter().filter(|&case| case != begun).collect();
    if !not_run.is_empty() {
        let _ = write!(text, "\nNo time was left for {} cases: {}.\n", not_run.len(), not_run.join(", "));
    }
    text
}

/// The table's line of a case.
pub fn line(row: &Value, limits: &Value) -> String {
    let case = row["case"].as_str().unwrap_or_default();
    let Some(median) = row["median_s"].as_f64() else {
        let error = row["error"].as_str().unwrap_or("no reason given");
        return format!("| {case} | failed: {} | | | | |", in_a_cell(error));
    };
    let rate = |name: &str| row[name].as_f64().unwrap_or_default() / median / 1e9;
    let yields = row["yields"]["count"].as_f64().map_or_else(String::new, |count| {
        format!("{:.1} {}/s", count / median, row["yields"]["unit"].as_str().unwrap_or_default())
    });
    let share = of_limit(row, limits, median).map_or_else(String::new, |share| format!("{:.1}%", 100.0 * share));
    format!("| {case} | {} | {:.1} | {:.1} | {share} | {yields} |", duration(median), rate("bytes"), rate("flops"))
}

/// The time that the device needs at its best, over the time measured.
fn of_limit(row: &Value, limits: &Value, seconds: f64) -> Option<f64> {
    let memory = row["bytes"].as_f64()? / limits["memory"]["all_threads"].as_f64()?;
    let peak = limits["peaks"].as_array()?.iter().find(|peak| peak["arithmetic"] == row["arithmetic"])?;
    let compute = row["flops"].as_f64()? / peak["all_threads"].as_f64()?;
    Some(memory.max(compute) / seconds)
}

/// The first line of a message, as a table can hold it.
fn in_a_cell(message: &str) -> String {
    message.lines().next().unwrap_or_default().replace('|', "\\|")
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", 1e6 * s),
        s if s < 1.0 => format!("{:.2} ms", 1e3 * s),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_tell_rates_and_failures() {
        let limits = json!({"memory": {"all_threads": 4e9}, "peaks": [{"arithmetic": "f32", "all_threads": 1e12}]});
        let row = json!({"case": "decode small", "bytes": 2e9, "flops": 1e9, "arithmetic": "f32", "median_s": 1.0,
            "yields": {"unit": "tokens", "count": 8}});
        assert_eq!(line(&row, &limits), "| decode small | 1.00 s | 2.0 | 1.0 | 50.0% | 8.0 tokens/s |");
        let failed = json!({"case": "decode small", "error": "no | memory\nmore"});
        assert_eq!(line(&failed, &limits), "| decode small | failed: no \\| memory | | | | |");
        let figures = json!({"device": "cuda", "fornax": "1", "limits": limits, "cases": [row, failed],
            "begun": "load a", "not_run": ["load a", "load b"]});
        let text = table(&figures);
        assert!(text.contains("memory 4 GB/s; f32 1.00 TFLOP/s"), "{text}");
        assert!(text.contains("Ended during: load a.") && text.contains("for 1 cases: load b."), "{text}");
    }
}

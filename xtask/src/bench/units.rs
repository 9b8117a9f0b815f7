//! Numbers with units, as people read them: three digits, and the unit that makes them so.

/// A duration: `1.23 ms`.
pub fn time(seconds: f64) -> String {
    let (scale, unit) = match seconds {
        _ if seconds < 1e-6 => (1e9, "ns"),
        _ if seconds < 1e-3 => (1e6, "µs"),
        _ if seconds < 1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{} {unit}", three(seconds * scale))
}

/// A rate of bytes: `25.1 GB/s`.
pub fn bandwidth(bytes_per_second: f64) -> String {
    rate(bytes_per_second, "B/s")
}

/// A rate of floating-point operations: `1.23 TFLOP/s`.
pub fn compute(operations_per_second: f64) -> String {
    rate(operations_per_second, "FLOP/s")
}

/// A rate in the unit given, with the prefix that fits.
pub fn rate(per_second: f64, unit: &str) -> String {
    let (scale, prefix) = match per_second {
        _ if per_second >= 1e12 => (1e12, "T"),
        _ if per_second >= 1e9 => (1e9, "G"),
        _ if per_second >= 1e6 => (1e6, "M"),
        _ if per_second >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    };
    format!("{} {prefix}{unit}", three(per_second / scale))
}

/// Bytes: `1.0 GiB`.
pub fn bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        _ if bytes >= (1u64 << 30) as f64 => format!("{:.1} GiB", bytes / (1u64 << 30) as f64),
        _ if bytes >= (1u64 << 20) as f64 => format!("{:.0} MiB", bytes / (1u64 << 20) as f64),
        _ => format!("{:.0} KiB", bytes / 1024.0),
    }
}

/// A share of one, in percent: `78%`; small ones with a digit more.
pub fn percent(share: f64) -> String {
    if share < 0.0995 { format!("{:.1}%", 100.0 * share) } else { format!("{:.0}%", 100.0 * share) }
}

/// How many times: `1.84×`.
pub fn times(ratio: f64) -> String {
    format!("{}×", three(ratio))
}

/// Three digits, more before the point where there are more.
fn three(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude < 9.995 => format!("{value:.2}"),
        magnitude if magnitude < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_fitting_unit() {
        assert_eq!(time(1.234e-9), "1.23 ns");
        assert_eq!(time(0.000_012_34), "12.3 µs");
        assert_eq!(time(0.1234), "123 ms");
        assert_eq!(time(12.0), "12.0 s");
        assert_eq!(bandwidth(25.06e9), "25.1 GB/s");
        assert_eq!(compute(2.17e12), "2.17 TFLOP/s");
        assert_eq!(rate(950.0, "tokens/s"), "950 tokens/s");
        assert_eq!(rate(7459.0, "tokens/s"), "7.46 ktokens/s");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes(105 << 20), "105 MiB");
        assert_eq!([percent(0.784), percent(0.0123), percent(1.0)], ["78%", "1.2%", "100%"]);
        assert_eq!([times(1.838), times(0.5), times(120.4)], ["1.84×", "0.50×", "120×"]);
    }
}

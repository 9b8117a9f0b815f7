//! Facts about the machine and the tree, for the head of a report. What cannot be found is left out.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::results::Machine;

impl Machine {
    /// Of this machine.
    pub fn this() -> Self {
        Self {
            processor: processor().unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory(),
            system: system(),
            rustc: first_line(Command::new("rustc").arg("-V")).unwrap_or_else(|| "rustc".into()),
        }
    }
}

/// How busy the machine is already, where that disturbs: a sentence for the notes.
pub fn busy(cores: usize) -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    (load > 0.5 * cores as f64).then(|| {
        format!(
            "Other programs were running (load {load:.1} on {cores} processors when the run began), so times are longer \
             and vary more than on a quiet machine."
        )
    })
}

/// The commit of the tree at `root`, marked where files were changed since.
pub fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        first_line(Command::new("git").args(["-c", "safe.directory=*"]).args(arguments).current_dir(root))
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".into() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changed) if !changed.is_empty() => format!("{commit} with changes"),
        _ => commit,
    }
}

/// Now, in UTC: `2026-11-22 08:03`.
pub fn now() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The command that was given, as it can be given again.
pub fn command() -> String {
    let quoted = |argument: String| {
        let plain = |char: char| char.is_ascii_alphanumeric() || "-_=.,:/+".contains(char);
        let quoted = format!("'{}'", argument.replace('\'', r"'\''"));
        if !argument.is_empty() && argument.chars().all(plain) { argument } else { quoted }
    };
    let arguments: Vec<String> = std::env::args().skip(1).map(quoted).collect();
    format!("cargo xtask {}", arguments.join(" "))
}

/// The civil date of seconds since 1970, after Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is their last.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + next;
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

fn processor() -> Option<String> {
    if let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") {
        return cpuinfo(&text);
    }
    first_line(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]))
}

/// The processor's name, with its family and model where the name tells nothing (as virtual machines' often does).
fn cpuinfo(text: &str) -> Option<String> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let name = field("model name")?;
    let numbered = name.chars().any(|char| char.is_ascii_digit());
    match (numbered, field("cpu family"), field("model")) {
        (false, Some(family), Some(model)) => Some(format!("{name} (family {family}, model {model})")),
        _ => Some(name),
    }
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    format!("{name}, {}", std::env::consts::ARCH)
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_782_399), "2000-02-28 23:59");
        assert_eq!(date(951_782_400), "2000-02-29 00:00");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59");
        assert_eq!(date(1_735_689_600), "2025-01-01 00:00");
    }

    #[test]
    fn a_processor_without_a_number_is_told_by_its_model() {
        let text = "processor : 0\ncpu family : 6\nmodel : 143\nmodel name : Intel(R) Xeon(R) Processor\n";
        assert_eq!(cpuinfo(text).as_deref(), Some("Intel(R) Xeon(R) Processor (family 6, model 143)"));
        let text = text.replace("Processor\n", "8480\n");
        assert_eq!(cpuinfo(&text).as_deref(), Some("Intel(R) Xeon(R) 8480"));
        assert_eq!(cpuinfo("nothing"), None);
    }
}

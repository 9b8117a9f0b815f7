//! The script of a pack, `run.sh` beside this file with its blanks filled in.

/// The archive that the script unpacks; it lies beside the script.
pub const ARCHIVE: &str = "device.tar.xz";

/// How long a run takes at most, in seconds.
const TOTAL: u32 = 480;

/// For how many of these seconds tests are begun. The rest is the benches'.
const TESTS: u32 = 270;

const _: () = assert!(TOTAL <= 8 * 60 && TESTS < TOTAL, "both have their time in a run of eight minutes");

/// What differs from pack to pack.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// The device that is checked where the user names no other.
    pub device: &'a str,
    /// The profile that the program was built with.
    pub profile: &'a str,
    /// The commit that it was built from.
    pub commit: &'a str,
}

impl Script<'_> {
    /// The whole script.
    pub fn text(&self) -> String {
        let (total, tests) = (TOTAL.to_string(), TESTS.to_string());
        let blanks = [
            ("@DEVICE@", self.device),
            ("@PROFILE@", self.profile),
            ("@COMMIT@", self.commit),
            ("@ARCHIVE@", ARCHIVE),
            ("@TOTAL@", &total),
            ("@TESTS@", &tests),
        ];
        blanks.iter().fold(include_str!("run.sh").to_owned(), |text, (blank, value)| text.replace(blank, value))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::device::pack;

    fn text() -> String {
        Script { device: "cuda", profile: "release", commit: "0123456789" }.text()
    }

    #[test]
    fn no_blank_is_left_and_the_limits_are_there() {
        let text = text();
        let blank = regex_lite::Regex::new("@[A-Z]+@").expect("an expression");
        assert!(blank.find(&text).is_none(), "{:?}", blank.find(&text));
        for expected in ["total=${FORNAX_DEVICE_SECONDS:-480}", "total * 270 / 480", "FORNAX_DEVICE:-cuda}", ARCHIVE] {
            assert!(text.contains(expected), "{expected}");
        }
    }

    /// Runs the script over a pack whose program is `program`, a script too; its exit code, and what it wrote.
    #[cfg(target_os = "linux")]
    fn run(program: &str, seconds: u32) -> (Option<i32>, impl Fn(&str) -> String) {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("fixtures")).expect("a folder");
        std::fs::write(at("fixtures/cases.json"), "{}").expect("a fixture");
        std::fs::write(at("program"), format!("#!/usr/bin/env bash\n{program}")).expect("a program");
        std::fs::set_permissions(at("program"), std::fs::Permissions::from_mode(0o755)).expect("it can be run");
        pack::write(&at("program"), &at("fixtures"), &at(ARCHIVE)).expect("a pack");
        std::fs::write(at("run.sh"), text()).expect("a script");
        let output = Command::new("bash")
            .arg(at("run.sh"))
            .env("OUT", at("results"))
            .env("FORNAX_DEVICE_SECONDS", seconds.to_string())
            .env_remove("FORNAX_DEVICE")
            .current_dir(folder.path())
            .output()
            .expect("bash starts");
        println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let read = move |name: &str| read(&folder.path().join("results").join(name));
        (output.status.code(), read)
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Three faults: a test that always fails, a test that fails only beside other tests, and a process that dies during a
    /// test.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_fails_is_told_and_the_benches_run() {
        let (code, read) = run(
            r#"case "$*" in
            *--list*) printf '%s: test\n' figures::measure models::logits::prefill operations::linear::{bad,good,shy} \
                operations::rope::{breaks,turns} ;;
            operations::linear::) printf 'test operations::linear::%s\n' 'bad ... FAILED' 'good ... ok' 'shy ... FAILED'
                exit 101 ;;
            operations::rope::) echo 'test operations::rope::turns ... ok'; exit 134 ;;
            models::logits::) [ -e "$FORNAX_TEST_FIXTURES/cases.json" ] && echo 'test models::logits::prefill ... ok' ;;
            '--exact operations::linear::bad '*) exit 101 ;;
            figures::measure*) echo '| figure |' >"$FORNAX_FIGURES/figures.md" ;;
            esac"#,
            60,
        );
        assert_eq!(code, Some(1));
        let expected = [
            "operations::linear::bad\tfailed",
            "operations::linear::good\tok",
            "operations::linear::shy\tfailed, but passed alone",
            "operations::rope::breaks\tok",
            "operations::rope::turns\tok",
            "models::logits::prefill\tok",
        ];
        let (mut found, mut expected) = (read("tests.tsv").lines().map(str::to_owned).collect::<Vec<_>>(), expected);
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let summary = read("summary.md");
        assert!(summary.contains("4 passed, 2 failed, 0 not run"), "{summary}");
        assert!(summary.contains("| operations::linear | 1 | 2 | 0 |"), "{summary}");
        assert!(summary.contains("- `operations::linear::bad` failed") && summary.contains("| figure |"), "{summary}");
        assert!(summary.contains("- operations::rope (exit code 134)"), "{summary}");
        assert!(read("machine.txt").contains("Fornax 0123456789, built with release for cuda"));
        assert!(read("tests.txt").contains("=== operations::rope::, exit code 134"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn time_that_runs_out_ends_the_tests() {
        let (code, read) = run(
            r#"case "$*" in *--list*) echo operations::linear::slow: test ;; *answers*) ;; *) sleep 60 ;; esac"#,
            4,
        );
        assert_eq!(code, Some(2));
        assert_eq!(read("tests.tsv"), "operations::linear::slow\tnot run\n");
        assert!(read("summary.md").contains("0 passed, 0 failed, 1 not run"), "{}", read("summary.md"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_that_is_not_there_is_told() {
        let (code, read) = run(
            r#"case "$*" in
            *--list*) echo operations::linear::good: test ;;
            *) echo "thread 'main' panicked at figures.rs:1:2:"; echo 'device "cuda" is not on this machine: no driver'; exit 101 ;;
            esac"#,
            60,
        );
        assert_eq!(code, Some(3));
        let summary = read("summary.md");
        assert!(summary.contains("is not on this machine: no driver"), "{summary}");
    }
}
